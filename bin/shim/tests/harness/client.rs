//! A client of the task service, of either version.

use containerd_shim_protos::api::*;
use containerd_shim_protos::ttrpc::{self, Code, Request};
use protobuf::Message;

/// What a refused call answers.
#[derive(Debug)]
pub struct Refused {
    pub code: Code,
    pub message: String,
}

pub struct Client {
    inner: ttrpc::Client,
    service: String,
}

impl Client {
    pub fn connect(address: &str, version: u32) -> Self {
        let inner = ttrpc::Client::connect(address).unwrap();
        Self { inner, service: format!("containerd.task.v{version}.Task") }
    }

    pub fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Result<A, Refused> {
        let request = Request {
            service: self.service.clone(),
            method: method.into(),
            payload: request.write_to_bytes().unwrap(),
            timeout_nano: i64::try_from(super::PATIENCE.as_nanos()).unwrap(),
            ..Default::default()
        };
        match self.inner.request(request) {
            Ok(response) => Ok(A::parse_from_bytes(&response.payload).unwrap()),
            Err(ttrpc::Error::RpcStatus(status)) => {
                Err(Refused { code: status.code(), message: status.message.clone() })
            }
            Err(error) => panic!("{method}: {error}"),
        }
    }

    pub fn create(&self, request: &CreateTaskRequest) -> Result<i32, Refused> {
        let response: CreateTaskResponse = self.call("Create", request)?;
        Ok(i32::try_from(response.pid).unwrap())
    }

    pub fn start(&self, id: &str, exec_id: &str) -> Result<i32, Refused> {
        let request = StartRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        let response: StartResponse = self.call("Start", &request)?;
        Ok(i32::try_from(response.pid).unwrap())
    }

    pub fn wait(&self, id: &str, exec_id: &str) -> Result<u32, Refused> {
        let request = WaitRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        let response: WaitResponse = self.call("Wait", &request)?;
        assert!(response.exited_at.seconds > 1_600_000_000);
        Ok(response.exit_status)
    }

    pub fn delete(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, Refused> {
        let request = DeleteRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("Delete", &request)
    }

    pub fn kill(&self, id: &str, exec_id: &str, signal: i32, all: bool) -> Result<(), Refused> {
        let signal = u32::try_from(signal).unwrap();
        let request = KillRequest { id: id.into(), exec_id: exec_id.into(), signal, all, ..Default::default() };
        self.call::<_, Empty>("Kill", &request).map(drop)
    }

    pub fn state(&self, id: &str, exec_id: &str) -> Result<StateResponse, Refused> {
        let request = StateRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("State", &request)
    }

    pub fn status(&self, id: &str) -> Status {
        self.state(id, "").unwrap().status.enum_value().unwrap()
    }

    pub fn shutdown(&self, id: &str) {
        let request = ShutdownRequest { id: id.into(), ..Default::default() };
        let request = Request {
            service: self.service.clone(),
            method: "Shutdown".into(),
            payload: request.write_to_bytes().unwrap(),
            ..Default::default()
        };
        // The answer and the end of the connection come together, and this client may see the end first.
        match self.inner.request(request) {
            Ok(_) | Err(ttrpc::Error::Socket(_) | ttrpc::Error::LocalClosed) => {}
            Err(error) => panic!("Shutdown: {error}"),
        }
    }

    pub fn close_stdin(&self, id: &str, exec_id: &str) {
        let request = CloseIORequest { id: id.into(), exec_id: exec_id.into(), stdin: true, ..Default::default() };
        self.call::<_, Empty>("CloseIO", &request).unwrap();
    }

    pub fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) {
        let request = ResizePtyRequest { id: id.into(), exec_id: exec_id.into(), width, height, ..Default::default() };
        self.call::<_, Empty>("ResizePty", &request).unwrap();
    }
}
