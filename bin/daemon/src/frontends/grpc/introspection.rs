//! `containerd.services.introspection.v1.Introspection`.

use super::{
    api::{Api, Reply},
    convert::platform,
    proto::{
        containerd::services::introspection::v1::{
            Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
            introspection_server::Introspection,
        },
        google::rpc,
    },
    status::status,
};
use std::{fs, os::unix::fs::MetadataExt};
use tonic::{Code, Request, Response, async_trait};
use wharf_messages::{
    Platform, Refusal,
    system::{GetDaemonInfo, ListPlugins, PluginInfo},
};

fn plugin(info: PluginInfo) -> Plugin {
    let PluginInfo { kind, id, platforms, exports, capabilities, problem } = info;
    Plugin {
        r#type: kind,
        id,
        platforms: platforms.iter().filter_map(|text| Platform::parse(text).ok()).map(platform).collect(),
        exports,
        capabilities,
        init_err: problem.map(|message| rpc::Status { code: Code::Unknown.into(), message, details: Vec::new() }),
        ..Plugin::default()
    }
}

#[async_trait]
impl Introspection for Api {
    async fn plugins(&self, request: Request<PluginsRequest>) -> Reply<PluginsResponse> {
        self.unary(
            request,
            |wire| Ok(ListPlugins { filters: wire.filters }),
            |plugins| PluginsResponse { plugins: plugins.into_iter().map(plugin).collect() },
        )
        .await
    }

    async fn server(&self, request: Request<()>) -> Reply<ServerResponse> {
        // Without /proc the namespace is not known, and nothing else is wrong.
        let pidns = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
        self.unary(
            request,
            |()| Ok(GetDaemonInfo {}),
            |info| ServerResponse { uuid: info.uuid, pid: info.pid.into(), pidns, deprecations: Vec::new() },
        )
        .await
    }

    async fn plugin_info(&self, request: Request<PluginInfoRequest>) -> Reply<PluginInfoResponse> {
        let (kind, id) = (request.get_ref().r#type.clone(), request.get_ref().id.clone());
        let plugins = self.unary(request, |_| Ok(ListPlugins::default()), |plugins| plugins).await?.into_inner();
        let found = plugins.into_iter().find(|plugin| plugin.kind == kind && plugin.id == id);
        let found = found.ok_or_else(|| status(&Refusal::not_found(format!("plugin {kind}.{id}"))))?;
        Ok(Response::new(PluginInfoResponse { plugin: Some(plugin(found)), extra: None }))
    }
}
