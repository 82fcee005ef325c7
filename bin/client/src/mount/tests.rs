use super::*;
use std::fs;

/// Runs a test's body where its mounts are nobody else's and go with it. Needs root, as mounting does.
fn apart(body: impl FnOnce() + Send) {
    in_thread(|| {
        // SAFETY: this thread was made for the test and ends with it.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        body();
        Ok(())
    })
    .unwrap();
}

fn layers(root: &Path, count: usize) -> (PathBuf, String) {
    let mut lower = Vec::new();
    for number in 0..count {
        let layer = root.join("snapshots").join(number.to_string()).join("fs");
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join(format!("etc/file{number}")), number.to_string()).unwrap();
        lower.push(layer.display().to_string());
    }
    let target = root.join("target");
    fs::create_dir(&target).unwrap();
    (target, lower.join(":"))
}

fn overlay(options: &[String]) -> Mount {
    Mount { kind: "overlay".into(), source: "overlay".into(), options: options.to_vec(), ..Mount::default() }
}

#[test]
fn an_overlay_with_more_options_than_a_page_is_mounted() {
    let root = tempfile::tempdir().unwrap();
    let (target, lower) = layers(root.path(), 100);
    assert!(lower.len() < OPTIONS_MAX_BYTES);
    let deep = root.path().join("a-long-name-for-a-root-folder-that-makes-options-longer-than-a-page");
    fs::create_dir(&deep).unwrap();
    let (deep_target, deep_lower) = layers(&deep, 100);
    assert!(deep_lower.len() > OPTIONS_MAX_BYTES);
    let before = std::env::current_dir().unwrap();
    apart(|| {
        for (target, lower) in [(&target, &lower), (&deep_target, &deep_lower)] {
            mount(&[overlay(&[format!("lowerdir={lower}")])], target).unwrap();
            assert_eq!(fs::read_to_string(target.join("etc/file99")).unwrap(), "99");
            unmount(target, false).unwrap();
            assert!(!target.join("etc").exists());
        }
    });
    assert_eq!(std::env::current_dir().unwrap(), before);
}

#[test]
fn too_many_layers_are_refused_with_the_reason() {
    let layers: Vec<String> = (0..2000).map(|number| format!("/a/{number}/fs")).collect();
    let options = format!("lowerdir={}", layers.join(":"));
    let refusal = mount(&[overlay(&[options])], Path::new("/nonexistent")).unwrap_err();
    assert!(refusal.detail.contains("4095"), "{refusal}");
}

#[test]
fn a_bind_mount_takes_its_flags() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let options = ["rbind", "ro", "rprivate"].map(str::to_owned).to_vec();
    let bind = Mount { kind: "bind".into(), source: source.display().to_string(), options, ..Mount::default() };
    apart(|| {
        mount(&[bind.clone(), bind.clone()], &target).unwrap();
        assert_eq!(fs::write(target.join("x"), "").unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        // Both, one above the other.
        unmount(&target, false).unwrap();
        fs::write(target.join("x"), "").unwrap();
        unmount(&target, false).unwrap();
    });
}

#[test]
fn a_failed_mount_takes_those_before_it_away() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("x"), "").unwrap();
    let bind = |source: &Path| Mount {
        kind: "bind".into(),
        source: source.display().to_string(),
        options: vec!["bind".into()],
        ..Mount::default()
    };
    apart(|| {
        let refusal = mount(&[bind(&source), bind(&root.path().join("nothing"))], &target).unwrap_err();
        assert!(refusal.is(wharf_messages::RefusalKind::NotFound), "{refusal}");
        assert!(!target.join("x").exists());
    });
}

#[test]
fn looking_into_an_active_snapshot_changes_nothing_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (target, lower) = layers(root.path(), 2);
    let (upper, work) = (root.path().join("upper"), root.path().join("work"));
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::create_dir(&work).unwrap();
    fs::write(upper.join("etc/passwd"), "top:x:1:2:::\n").unwrap();
    let options = [
        "index=off".to_owned(),
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={lower}"),
    ];
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let users = crate::spec::Users::of_mounts(&[overlay(&options)]).unwrap();
    assert_eq!(users.find("top").unwrap().uid(), 1);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_target_may_be_below_the_place_and_not_above() {
    let below = |target: &str| place_of(&Mount { target: target.into(), ..Mount::default() }, Path::new("/place"));
    assert_eq!(below("").unwrap(), Path::new("/place"));
    assert_eq!(below("/a/./b").unwrap(), Path::new("/place/a/b"));
    assert!(below("a/../../b").is_err());
}
