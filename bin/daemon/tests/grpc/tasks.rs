//! What the task service says to calls that the state of a task forbids, and to those that it allows.

use crate::{
    client::{Answers, compare, compare_but},
    task_calls::{Call, Given, Tasks},
};
use Call::{
    Checkpoint, CloseIo, Create, CreateWith, Delete, DeleteProcess, Exec, ExecOf, Get, Kill, KillAll, List, ListPids,
    Metrics, Pause, ResizePty, Resume, Start, Update, Wait,
};

/// How a state is reached. Waiting for an end is `Wait`.
type State = (&'static str, &'static [Call]);

const LIMITS: Given = ("LinuxResources", r#"{"pids": {"limit": 64}}"#);

/// The task as a whole.
#[rustfmt::skip]
const STATES: &[State] = &[
    ("no task", &[]),
    ("created", &[Create]),
    ("running", &[Create, Start("")]),
    ("paused", &[Create, Start(""), Pause]),
    ("exited", &[Create, Start(""), Kill("", 9), Wait("")]),
    ("deleted", &[Create, Start(""), Kill("", 9), Wait(""), Delete]),
];

/// What is asked in each of them.
#[rustfmt::skip]
const CALLS: &[Call] = &[
    Get(""), List(""), Create, Start(""), Delete, Kill("", 0), Kill("", 64), Kill("", 999), Kill("", 9), KillAll(9), Exec("x"),
    ResizePty(""), CloseIo(""), Pause, Resume, ListPids, Checkpoint(None), Update(Some(LIMITS)), Metrics("id==ID"), Wait(""),
    Get("x"), Start("x"), DeleteProcess("x"), DeleteProcess(""), Kill("x", 9), ResizePty("x"), CloseIo("x"), Wait("x"),
];

/// Asks in a state; what was done there is not the state of the next question.
async fn ask(tasks: &mut Tasks, answers: &mut Answers, (name, way): State, calls: &[Call]) {
    let mut there: Option<String> = None;
    for call in calls {
        let id = match there.take() {
            Some(id) => id,
            None => reach(tasks, (name, way)).await,
        };
        let answer = tasks.call(&id, *call).await;
        let harmless = match &answer {
            // containerd's shim dies of some of them.
            Err(status) => status.message() != "ttrpc: closed",
            Ok(_) => matches!(call, Get(_) | List(_) | Metrics(_) | ListPids | Wait(_)),
        };
        answers.seen(&format!("{name}: {call:?}"), answer);
        if harmless {
            there = Some(id);
        } else {
            tasks.remove(&id).await;
        }
    }
    if let Some(id) = there {
        tasks.remove(&id).await;
    }
}

/// A new container in a state.
async fn reach(tasks: &mut Tasks, (name, way): State) -> String {
    let id = tasks.container(false).await;
    for call in way {
        match call {
            Wait(exec) => tasks.ended(&id, exec).await,
            call => {
                let done = tasks.call(&id, *call).await;
                done.unwrap_or_else(|status| panic!("{name}: {call:?}: {status}"));
            }
        }
    }
    id
}

/// Asks one after the other.
async fn ask_all(tasks: &mut Tasks, answers: &mut Answers, name: &str, id: &str, calls: &[Call]) {
    for call in calls {
        let answer = tasks.call(id, *call).await;
        answers.seen(&format!("{name}: {call:?}"), answer);
    }
}

#[tokio::test]
async fn a_task_in_every_state() {
    let signal = "containerd quotes runc";
    let known = [
        ("created: Kill(\"\", 999)", signal),
        ("running: Kill(\"\", 999)", signal),
        ("paused: Kill(\"\", 999)", signal),
    ];
    let nameless = "containerd takes the first process for the one without a name, and leaves its task without one";
    let embedded = "checkpoints need runc, which is to be named; containerd quotes it, for want of criu";
    let others = [
        ("no task: DeleteProcess(\"\")", nameless),
        ("created: DeleteProcess(\"\")", nameless),
        ("running: DeleteProcess(\"\")", nameless),
        ("paused: DeleteProcess(\"\")", nameless),
        ("exited: DeleteProcess(\"\")", nameless),
        ("deleted: DeleteProcess(\"\")", nameless),
        ("running: Checkpoint(None)", embedded),
        ("paused: Checkpoint(None)", embedded),
    ];
    compare_but(&known, &others, async |daemon, answers| {
        let mut tasks = Tasks::of(daemon).await;
        for state in STATES {
            ask(&mut tasks, answers, *state, CALLS).await;
        }
    })
    .await;
}

/// An added process.
#[rustfmt::skip]
const EXEC_STATES: &[State] = &[
    ("added", &[Create, Start(""), Exec("x")]),
    ("added to a created one", &[Create, Exec("x")]),
    ("started", &[Create, Start(""), Exec("x"), Start("x")]),
    ("started and paused", &[Create, Start(""), Exec("x"), Start("x"), Pause]),
    ("added and paused", &[Create, Start(""), Exec("x"), Pause]),
    ("ended", &[Create, Start(""), Exec("x"), Start("x"), Kill("x", 9), Wait("x")]),
    ("ended, and its task paused", &[Create, Start(""), Exec("x"), Start("x"), Kill("x", 9), Wait("x"), Pause]),
    ("deleted", &[Create, Start(""), Exec("x"), Start("x"), Kill("x", 9), Wait("x"), DeleteProcess("x")]),
    ("ended with its task", &[Create, Start(""), Exec("x"), Start("x"), Kill("", 9), Wait("x"), Wait("")]),
    ("added, and its task ended", &[Create, Start(""), Exec("x"), Kill("", 9), Wait("")]),
];

#[rustfmt::skip]
const EXEC_CALLS: &[Call] = &[
    Get("x"), Exec("x"), Start("x"), DeleteProcess("x"), Kill("x", 0), Kill("x", 999), Kill("x", 9), ResizePty("x"), CloseIo("x"),
    Wait("x"), Delete,
];

#[tokio::test]
async fn an_added_process_in_every_state() {
    let known = [("added and paused: Start(\"x\")", "there is no runc whose flag could be named")];
    compare(&known, async |daemon, answers| {
        let mut tasks = Tasks::of(daemon).await;
        for state in EXEC_STATES {
            ask(&mut tasks, answers, *state, EXEC_CALLS).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_asked_wrongly() {
    #[rustfmt::skip]
    const WRONG: &[Call] = &[
        Update(None), Update(Some(("LinuxResources", "garbage"))), Update(Some(("LinuxResources", r#"{"pids": "many"}"#))),
        Update(Some(("nosuch.Type", "garbage"))), Update(Some(("Process", "{}"))),
        Checkpoint(Some(("nosuch.Type", ""))), Checkpoint(Some(("containerd.runc.v1.CheckpointOptions", "\n"))),
        Metrics("id="), Metrics("id==\"ID"), Metrics("nosuch==ID"), Metrics("id~=["), Metrics("id==other"),
        List("id="), List("id==other"),
        Exec(""), Exec("a/b"),
        ExecOf("x", ("Process", "garbage")), ExecOf("x", ("Process", "{}")), ExecOf("x", ("nosuch.Type", "")),
        ResizePty(""), CloseIo(""),
    ];
    let parser = "another parser's words";
    let known = [
        ("running: Update(*", parser),
        ("running: Checkpoint(Some((\"containerd.runc*", parser),
        ("running: ExecOf(*", parser),
        ("no container: Start(\"\")", "there is no task, whether or not there is a container"),
        ("no name: *", "it is not looked for in a namespace"),
        ("a bad name: *", "it is not looked for in a namespace"),
    ];
    let others = [
        ("running: Update(None)", "containerd's shim panics"),
        ("running: Checkpoint(Some((\"nosuch*", "the embedded runtime has no checkpoints, whatever their options"),
        ("running: Metrics(\"id~=[\")", "containerd takes an expression that is none for one that nothing matches"),
    ];
    compare_but(&known, &others, async |daemon, answers| {
        let mut tasks = Tasks::of(daemon).await;
        ask(&mut tasks, answers, ("running", &[Create, Start("")]), WRONG).await;
        let id = tasks.container(true).await;
        let terminal =
            [CreateWith { terminal: true }, ResizePty(""), Start(""), ResizePty(""), CloseIo(""), CloseIo("")];
        ask_all(&mut tasks, answers, "terminal", &id, &terminal).await;
        tasks.call(&id, Kill("", 9)).await.unwrap();
        tasks.ended(&id, "").await;
        ask_all(&mut tasks, answers, "ended terminal", &id, &[ResizePty(""), CloseIo(""), Delete]).await;
        let id = tasks.container(false).await;
        ask_all(&mut tasks, answers, "input", &id, &[Create, CloseIo(""), CloseIo(""), Start(""), CloseIo("")]).await;
        tasks.remove(&id).await;
        ask_all(&mut tasks, answers, "no container", "nosuch", &[Create, Start("")]).await;
        for (name, id) in [("no name", ""), ("a bad name", "a/b")] {
            ask_all(&mut tasks, answers, name, id, &[Create, Get(""), Start(""), Delete, Pause, Wait("")]).await;
        }
    })
    .await;
}
