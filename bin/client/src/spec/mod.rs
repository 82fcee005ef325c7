//! The OCI spec of a container: containerd's default, the image's configuration, and what the caller wants otherwise.
//!
//! ```no_run
//! # fn example(config_json: &[u8], mounts: &[wharf_messages::Mount]) -> wharf_messages::Answer<()> {
//! use wharf_client::spec::{ImageConfig, SpecBuilder, SpecOptions, Users};
//! use wharf_messages::{ContainerId, Namespace};
//!
//! let options = SpecOptions { args: vec!["true".into()], ..SpecOptions::default() };
//! let spec = SpecBuilder::new(&Namespace::new("default")?, &ContainerId::new("web")?)
//!     .image(ImageConfig::parse(config_json)?)
//!     .options(options)
//!     .build(&Users::of_mounts(mounts)?)?;
//! let any = wharf_client::spec::to_any(&spec)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Spec
//! OCI runtime specification 1.0.2; the defaults are containerd's, the options mean what `ctr run`'s flags mean.

mod capabilities;
mod default;
mod devices;
mod environment;
mod gpus;
mod image;
mod options;
mod process;
mod runc;
mod seccomp;
mod users;

pub use image::{ImageConfig, STOP_SIGNAL_LABEL};
pub use oci_spec::runtime::Spec;
pub use options::{IdMap, JoinNamespace, Rlimit, Seccomp, SpecMount, SpecOptions};
pub use process::ExecOptions;
pub use runc::RuncOptions;
pub use users::Users;

use default::made;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCpuBuilder, LinuxIdMappingBuilder, LinuxIntelRdtBuilder,
    LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, Mount,
    MountBuilder, PosixRlimitBuilder, Process,
};
use std::path::{Path, PathBuf};
use wharf_messages::{Answer, Any, ContainerId, Namespace, Refusal};

/// The period over which `cpus` is counted.
///
/// # Spec
/// `ctr run --cpus`: 100 ms, the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// Puts a container's spec together.
#[derive(Debug, Clone)]
pub struct SpecBuilder {
    namespace: Namespace,
    id: ContainerId,
    image: Option<ImageConfig>,
    options: SpecOptions,
}

impl SpecBuilder {
    /// For a container without an image: containerd's default spec and nothing more.
    #[must_use]
    pub fn new(namespace: &Namespace, id: &ContainerId) -> Self {
        Self { namespace: namespace.clone(), id: id.clone(), image: None, options: SpecOptions::default() }
    }

    /// Takes environment, command, folder and user from an image.
    #[must_use]
    pub fn image(mut self, config: ImageConfig) -> Self {
        self.image = Some(config);
        self
    }

    /// Takes what the caller wants.
    #[must_use]
    pub fn options(mut self, options: SpecOptions) -> Self {
        self.options = options;
        self
    }

    /// Whether [`SpecBuilder::build`] looks anything up in the root file system's users and groups. If not,
    /// `Users::default()` will do.
    #[must_use]
    pub fn needs_users(&self) -> bool {
        self.image.is_some() || self.options.user.is_some()
    }

    /// Makes the spec; `users` are the root file system's own.
    ///
    /// # Errors
    /// `InvalidArgument` that names the option; `NotFound` for a user, group, device or file that is not there.
    pub fn build(self, users: &Users) -> Answer<Spec> {
        let mut spec = default::spec(&format!("/{}/{}", self.namespace, self.id))?;
        let Self { image, options, .. } = self;
        process::fill(&mut spec, image.as_ref(), &options, users)?;
        root(&mut spec, &options);
        mounts(&mut spec, &options)?;
        privileges(&mut spec, &options)?;
        namespaces(&mut spec, &options)?;
        resources(&mut spec, &options)?;
        gpus::hook(&mut spec, &options.gpus)?;
        if !options.annotations.is_empty() {
            spec.set_annotations(Some(options.annotations.clone().into_iter().collect()));
        }
        spec.set_hostname(options.hostname);
        Ok(spec)
    }
}

/// The spec as a container's record carries it.
///
/// # Errors
/// `Internal` if it cannot be written as JSON.
pub fn to_any(spec: &Spec) -> Answer<Any> {
    let failed = |error: serde_json::Error| Refusal::internal(format!("write the OCI spec as JSON: {error}"));
    let mut json = serde_json::to_string(spec).map_err(failed)?;
    // Sets of capabilities have no order; a record should not differ from run to run.
    if let Some(sets) = spec.process().as_ref().and_then(|process| process.capabilities().as_ref()) {
        let field = |sets: String| format!("\"capabilities\":{sets}");
        let unordered = field(serde_json::to_string(sets).map_err(failed)?);
        let ordered = field(serde_json::to_string(&OrderedCapabilities::from(sets)).map_err(failed)?);
        // Quotes within a string are escaped, so the text is found nowhere else.
        json = json.replacen(&unordered, &ordered, 1);
    }
    Ok(Any::new(Any::SPEC, json.into_bytes()))
}

/// A process's capabilities with their fields in the specification's order, and each set in alphabetical order.
#[derive(serde::Serialize)]
struct OrderedCapabilities {
    #[serde(skip_serializing_if = "Option::is_none")]
    bounding: Option<Vec<Capability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<Vec<Capability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inheritable: Option<Vec<Capability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permitted: Option<Vec<Capability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ambient: Option<Vec<Capability>>,
}

impl From<&LinuxCapabilities> for OrderedCapabilities {
    fn from(sets: &LinuxCapabilities) -> Self {
        let ordered = |set: &Option<Capabilities>| {
            let mut list: Vec<_> = set.as_ref()?.iter().copied().collect();
            list.sort_unstable_by_key(ToString::to_string);
            Some(list)
        };
        Self {
            bounding: ordered(sets.bounding()),
            effective: ordered(sets.effective()),
            inheritable: ordered(sets.inheritable()),
            permitted: ordered(sets.permitted()),
            ambient: ordered(sets.ambient()),
        }
    }
}

/// The spec out of a container's record.
///
/// # Errors
/// `InvalidArgument` if it is not a spec as JSON.
pub fn from_any(any: &Any) -> Answer<Spec> {
    if any.type_url != Any::SPEC {
        return Err(Refusal::invalid(format!("a container's spec of type {:?} is not an OCI spec", any.type_url)));
    }
    serde_json::from_slice(&any.value)
        .map_err(|error| Refusal::invalid(format!("a container's spec cannot be read as an OCI spec: {error}")))
}

/// Reads a whole spec from a file, as `--config` names it.
///
/// # Errors
/// `NotFound`, or `InvalidArgument` if it is not a spec or larger than 4 MiB.
pub fn from_file(path: &Path) -> Answer<Spec> {
    let json = read_limited(path, 4 << 20)?;
    serde_json::from_slice(&json).map_err(|error| Refusal::invalid(format!("spec {}: {error}", path.display())))
}

/// Reads a file that must not be larger than a limit.
pub(crate) fn read_limited(path: &Path, limit_bytes: u64) -> Answer<Vec<u8>> {
    use std::io::Read;
    let failed = |error: std::io::Error| Refusal::io(format!("read {}", path.display()), &error);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit_bytes) {
        Ok(bytes)
    } else {
        Err(Refusal::invalid(format!("{} is larger than {limit_bytes} bytes", path.display())))
    }
}

fn root(spec: &mut Spec, options: &SpecOptions) {
    if let Some(root) = spec.root_mut() {
        if let Some(path) = &options.rootfs {
            root.set_path(path.clone());
        }
        if options.read_only {
            root.set_readonly(Some(true));
        }
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_rootfs_propagation(options.rootfs_propagation.clone());
    }
}

fn mounts(spec: &mut Spec, options: &SpecOptions) -> Answer<()> {
    let mounts = spec.mounts_mut().get_or_insert_default();
    for mount in &options.mounts {
        mounts.push(mount.to_oci()?);
    }
    if options.host_network {
        for file in ["/etc/hosts", "/etc/resolv.conf"] {
            mounts.push(bind_read_only(file)?);
        }
    }
    if options.privileged {
        let kernel = |mount: &&mut Mount| matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup" | "cgroup2"));
        for option in mounts.iter_mut().filter(kernel).filter_map(|mount| mount.options_mut().as_mut()).flatten() {
            if option == "ro" {
                option.replace_range(.., "rw");
            }
        }
    }
    Ok(())
}

fn bind_read_only(path: &str) -> Answer<Mount> {
    let options = ["rbind", "ro"].map(str::to_owned);
    made(MountBuilder::default().destination(path).source(path).typ("bind").options(options).build())
}

/// Capabilities, new privileges, hidden paths, devices, profiles.
fn privileges(spec: &mut Spec, options: &SpecOptions) -> Answer<()> {
    let bounding = capabilities::choose(options)?;
    let process = process_of(spec)?;
    process.set_capabilities(Some(default::capability_sets(&bounding)?));
    if options.new_privileges {
        process.set_no_new_privileges(None);
    }
    process.set_apparmor_profile(options.apparmor_profile.clone());
    let seccomp = seccomp::choose(&options.seccomp, &bounding)?;
    let linux = spec.linux_mut().get_or_insert_default();
    linux.set_seccomp(seccomp);
    if options.privileged {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    devices::fill(linux, options)
}

fn namespaces(spec: &mut Spec, options: &SpecOptions) -> Answer<()> {
    let linux = spec.linux_mut().get_or_insert_default();
    let namespaces = linux.namespaces_mut().get_or_insert_default();
    if options.host_network {
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    }
    if !options.uid_maps.is_empty() || !options.gid_maps.is_empty() {
        namespaces.push(made(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build())?);
    }
    for JoinNamespace { kind, path } in &options.namespaces {
        let joined = made(LinuxNamespaceBuilder::default().typ(*kind).path(path.clone()).build())?;
        match namespaces.iter_mut().find(|namespace| namespace.typ() == *kind) {
            Some(namespace) => *namespace = joined,
            None => namespaces.push(joined),
        }
    }
    let mappings = |maps: &[IdMap]| {
        let mapping = |map: &IdMap| {
            let builder = LinuxIdMappingBuilder::default().container_id(map.container_id);
            made(builder.host_id(map.host_id).size(map.size).build())
        };
        (!maps.is_empty()).then(|| maps.iter().map(mapping).collect::<Answer<Vec<_>>>()).transpose()
    };
    linux.set_uid_mappings(mappings(&options.uid_maps)?).set_gid_mappings(mappings(&options.gid_maps)?);
    Ok(())
}

fn resources(spec: &mut Spec, options: &SpecOptions) -> Answer<()> {
    let linux = spec.linux_mut().get_or_insert_default();
    match options.cgroup.as_deref() {
        None => {}
        // Asked for without a cgroup.
        Some("") => _ = linux.set_cgroups_path(None),
        Some(path) => _ = linux.set_cgroups_path(Some(PathBuf::from(path))),
    }
    if let Some(class) = &options.rdt_class {
        linux.set_intel_rdt(Some(made(LinuxIntelRdtBuilder::default().clos_id(class.clone()).build())?));
    }
    let resources = linux.resources_mut().get_or_insert_default();
    cpu(resources, options)?;
    if let Some(limit) = options.memory_limit_bytes {
        let limit = i64::try_from(limit)
            .map_err(|_| Refusal::invalid(format!("memory limit of {limit} bytes: more than there can be")))?;
        resources.set_memory(Some(made(LinuxMemoryBuilder::default().limit(limit).build())?));
    }
    if let Some(limit) = options.pids_limit {
        resources.set_pids(Some(made(LinuxPidsBuilder::default().limit(limit).build())?));
    }
    Ok(())
}

fn cpu(resources: &mut LinuxResources, options: &SpecOptions) -> Answer<()> {
    let mut builder = LinuxCpuBuilder::default();
    let mut any = false;
    if let Some(cpus) = options.cpus {
        if options.cpu_quota_us.is_some() || options.cpu_period_us.is_some() {
            return Err(Refusal::invalid("cpus and quota/period should be used separately"));
        }
        if !(cpus.is_finite() && cpus > 0.0 && cpus <= 100_000.0) {
            return Err(Refusal::invalid(format!("cpus {cpus}: must be above 0")));
        }
        // Below 1e10 by the check above, so neither the cast nor the product loses anything that matters.
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded above")]
        let quota = (cpus * CPU_PERIOD_US as f64) as i64;
        builder = builder.period(CPU_PERIOD_US).quota(quota);
        any = true;
    }
    macro_rules! pass {
        ($($option:ident => $field:ident),*) => {$(
            if let Some(value) = options.$option.clone() {
                builder = builder.$field(value);
                any = true;
            }
        )*};
    }
    pass!(cpu_quota_us => quota, cpu_period_us => period, cpu_shares => shares, cpuset_cpus => cpus, cpuset_mems => mems);
    if any {
        resources.set_cpu(Some(made(builder.build())?));
    }
    Ok(())
}

fn process_of(spec: &mut Spec) -> Answer<&mut Process> {
    spec.process_mut().as_mut().ok_or_else(|| Refusal::invalid("the spec has no process"))
}

fn rlimits(limits: &[Rlimit]) -> Answer<Vec<oci_spec::runtime::PosixRlimit>> {
    let limit =
        |limit: &Rlimit| made(PosixRlimitBuilder::default().typ(limit.kind).soft(limit.soft).hard(limit.hard).build());
    limits.iter().map(limit).collect()
}

#[cfg(test)]
mod tests;
