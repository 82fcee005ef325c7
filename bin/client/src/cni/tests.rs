use super::*;
use std::{fs, os::unix::fs::PermissionsExt};

/// A folder with a configuration, plugins that are scripts, and what is kept.
struct Made(tempfile::TempDir);

impl Made {
    fn new(file: &str, text: &str) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        for folder in ["net.d", "bin"] {
            fs::create_dir(made.path(folder)).unwrap();
        }
        fs::write(made.path("net.d").join(file), text).unwrap();
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A plugin that logs how it is called and then does what `body` says.
    fn plugin(self, name: &str, body: &str) -> Self {
        let log = self.path("log").display().to_string();
        let script = format!(
            "#!/bin/sh\nprintf '%s ' {name} \"$CNI_COMMAND\" \"$CNI_CONTAINERID\" \"$CNI_NETNS\" \"$CNI_IFNAME\" >>{log}\n\
             cat >>{log}; echo >>{log}\n{body}\n"
        );
        let path = self.path("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn network(&self) -> Answer<Network> {
        Network::first_of(&self.path("net.d"), &[self.path("none"), self.path("bin")], &self.path("kept"))
    }

    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        fs::remove_file(self.path("log")).ok();
        log.lines().map(str::to_owned).collect()
    }

    fn kept(&self) -> PathBuf {
        self.path("kept/net-default-web-eth0")
    }
}

const LIST: &str = r#"{"cniVersion":"0.4.0","name":"net","plugins":[{"type":"one","key":[1]},{"type":"two"}]}"#;

#[test]
fn a_list_is_added_in_order_and_removed_in_reverse() {
    let made = Made::new("10-net.conflist", LIST)
        .plugin("one", r#"[ $CNI_COMMAND = DEL ] || echo '{"ips":["from one"]}'"#)
        .plugin("two", r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion":"0.3.1","ips":["from two"]}'"#);
    let network = made.network().unwrap();
    network.add("default-web", "/proc/7/ns/net").unwrap();
    assert_eq!(
        made.log(),
        [
            r#"one ADD default-web /proc/7/ns/net eth0 {"cniVersion":"0.4.0","key":[1],"name":"net","type":"one"}"#,
            r#"two ADD default-web /proc/7/ns/net eth0 {"cniVersion":"0.4.0","name":"net","prevResult":{"cniVersion":"0.4.0","ips":["from one"]},"type":"two"}"#,
        ]
    );
    let kept: Value = serde_json::from_slice(&fs::read(made.kept()).unwrap()).unwrap();
    assert_eq!(kept["kind"], "cniCacheV1");
    assert_eq!(kept["result"]["ips"][0], "from two");
    network.remove("default-web").unwrap();
    assert_eq!(
        made.log(),
        [
            r#"two DEL default-web  eth0 {"cniVersion":"0.4.0","name":"net","prevResult":{"cniVersion":"0.3.1","ips":["from two"]},"type":"two"}"#,
            r#"one DEL default-web  eth0 {"cniVersion":"0.4.0","key":[1],"name":"net","prevResult":{"cniVersion":"0.3.1","ips":["from two"]},"type":"one"}"#,
        ]
    );
    assert!(!made.kept().exists());
    // Nothing is there any more, which is fine.
    network.remove("default-web").unwrap();
    assert!(!made.log()[0].contains("prevResult"));
}

#[test]
fn a_single_plugin_is_a_list_of_one_and_an_old_one_is_given_nothing_back() {
    let made = Made::new("net.conf", r#"{"cniVersion":"0.3.1","name":"net","type":"one"}"#).plugin("one", "echo '{}'");
    fs::write(made.path("net.d/zz.conflist"), LIST).unwrap();
    fs::write(made.path("net.d/aa.txt"), "none").unwrap();
    let network = made.network().unwrap();
    network.add("default-web", "/netns").unwrap();
    assert_eq!(made.log(), [r#"one ADD default-web /netns eth0 {"cniVersion":"0.3.1","name":"net","type":"one"}"#]);
    network.remove("default-web").unwrap();
    assert_eq!(made.log(), [r#"one DEL default-web  eth0 {"cniVersion":"0.3.1","name":"net","type":"one"}"#]);
}

#[test]
fn plugins_that_fail_are_told_of_in_their_words() {
    for (body, words) in [
        (r#"echo '{"code":7,"msg":"no address","details":"all taken"}'; exit 1"#, "no address; all taken"),
        ("echo oops >&2; exit 1", "netplugin failed: \"oops\\n\""),
        ("exit 3", "netplugin failed with no error message: exit status: 3"),
        ("echo nonsense; exit 1", "error parsing its diagnostic message \"nonsense\\n\""),
        ("echo nonsense", "its answer"),
    ] {
        let made = Made::new("net.conflist", LIST).plugin("one", body).plugin("two", "echo '{}'");
        let refusal = made.network().unwrap().add("default-web", "/netns").unwrap_err();
        assert!(refusal.detail.contains(words), "{refusal}");
        assert_eq!(made.log().len(), 1);
    }
    let made = Made::new("net.conflist", LIST).plugin("one", "echo '{}'");
    let network = made.network().unwrap();
    let refusal = network.add("default-web", "/netns").unwrap_err();
    assert!(refusal.detail.contains("plugin type=\"two\" failed (add): failed to find plugin \"two\""), "{refusal}");
    // The others have their turn all the same.
    made.log();
    assert!(network.remove("default-web").is_err());
    assert!(made.log()[0].starts_with("one DEL default-web"));
}

#[test]
fn what_is_gone_already_is_removed() {
    let body = r#"[ $CNI_COMMAND = ADD ] || { echo '{"msg":"link eth0 not found"}'; exit 1; }; echo '{}'"#;
    let made = Made::new("net.conflist", LIST).plugin("one", body).plugin("two", body);
    let network = made.network().unwrap();
    network.add("default-web", "/netns").unwrap();
    network.remove("default-web").unwrap();
    assert_eq!(made.log().len(), 4);
    assert!(!made.kept().exists());
    let _made = made.plugin("one", r#"echo '{"msg":"busy"}'; exit 1"#);
    assert!(network.remove("default-web").unwrap_err().detail.contains("(delete): busy"));
}

#[test]
fn configurations_that_are_none_are_refused() {
    for (file, text, words) in [
        ("readme.txt", "", "no network config found in"),
        ("a.conflist", "{", "error parsing"),
        ("a.conflist", "[]", "no object"),
        ("a.conflist", r#"{"name":"n"}"#, "no 'plugins' key"),
        ("a.conflist", r#"{"name":"n","plugins":[]}"#, "no plugins in list"),
        ("a.conflist", r#"{"name":"n","plugins":[{}]}"#, "missing 'type'"),
        ("a.conflist", r#"{"name":"n","plugins":[{"type":"../x"}]}"#, "invalid plugin name"),
        ("a.conflist", r#"{"name":"../n","plugins":[{"type":"x"}]}"#, "invalid characters"),
        ("a.conflist", r#"{"plugins":[{"type":"x"}]}"#, "invalid characters"),
        ("a.conf", r#"{"name":"n"}"#, "missing 'type'"),
        ("a.json", LIST, "missing 'type'"),
    ] {
        let refusal = Made::new(file, text).network().unwrap_err();
        assert!(refusal.detail.contains(words), "{text}: {refusal}");
    }
    let made = Made::new("a.conflist", r#"{"cniVersion":"new","name":"n","plugins":[{"type":"x"}]}"#);
    assert!(made.network().unwrap().remove("default-web").unwrap_err().detail.contains("version"));
    assert!(Network::first_of(Path::new("/nowhere/net.d"), &[], Path::new("/nowhere")).is_err());
}
