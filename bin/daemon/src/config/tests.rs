use super::*;

#[test]
fn the_default_is_read_back_as_it_is_written() {
    let config = Config::default();
    config.check().unwrap();
    assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
    assert_eq!(Config::parse("").unwrap(), config);
}

#[test]
fn what_is_said_goes_over_the_default() {
    let config = Config::parse(
        "version = 1\nroot = \"/r\"\nsnapshotter = \"native\"\n[log]\nlevel = \"fatal\"\nformat = \"json\"\n\
         [socket]\ngroup = \"root\"\n[registry]\nmax_concurrent_downloads = 7\n",
    )
    .unwrap();
    assert_eq!((config.root.as_path(), config.state.as_path()), (Path::new("/r"), Path::new("/run/wharf")));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Error, LogFormat::Json));
    assert_eq!((config.socket.gid().unwrap(), config.snapshotter.as_str()), (0, "native"));
    assert_eq!((config.registry.max_concurrent_downloads, config.system().retention.events_max), (7, 200_000));
}

#[test]
fn unknown_keys_and_wrong_values_are_named_with_their_line() {
    for (text, line, word) in [
        ("version = 1\nrot = \"/r\"\n", 2, "`rot`"),
        ("\n\n[limits]\nconnection_max = 1\n", 4, "`connection_max`"),
        ("[nope]\nx = 1\n", 1, "`nope`"),
        ("root = 7\n", 1, "7"),
        ("[content]\nsharing_policy = \"secret\"\n", 2, "`secret`"),
        ("# x\n[log]\nlevel = \"loud\"\n", 3, "`loud`"),
        ("snapshotter = \"../x\"\n", 1, "../x"),
        ("[proxy_plugins.c]\ntype = \"content\"\naddress = \"/c.sock\"\n", 2, "`content`"),
        ("[served_snapshotters]\nw = \"btrfs\"\n", 2, "`btrfs`"),
        ("root = \n", 1, ""),
        ("root = \"a\"\nroot = \"b\"\n", 2, "duplicate"),
    ] {
        let refusal = Config::parse(text).unwrap_err();
        assert!(refusal.detail.starts_with(&format!("line {line}: ")), "{text:?}: {refusal}");
        assert!(refusal.detail.contains(word), "{text:?}: {refusal}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    for (text, word) in [
        ("version = 2", "version 2"),
        ("root = \"relative\"", "absolute"),
        ("[runtime]\nshim = \"wharf-shim\"", "runtime.shim"),
        ("root = \"/x\"\nstate = \"/x\"", "same folder"),
        (&format!("address = \"/{}\"", "x".repeat(107)), "longer"),
        ("[registry]\nmax_concurrent_downloads = 65", "from 1 to 64"),
        ("[limits]\nconnections_max = 0", "above 0"),
        ("[gc]\npause_threshold = 0.6", "from 0 to 0.5"),
        ("[restart]\nbackoff_first_ms = 0", "backoff_first_ms"),
        ("[restart]\nbackoff_max_ms = 10", "backoff_max_ms"),
        ("[served_snapshotters]\nnative = \"overlayfs\"", "served_snapshotters.native"),
        ("[proxy_plugins.s]\ntype = \"snapshot\"\naddress = \"s.sock\"", "proxy_plugins.s.address"),
        (
            "[served_snapshotters]\ns = \"native\"\n[proxy_plugins.s]\ntype = \"snapshot\"\naddress = \"/s\"",
            "proxy_plugins.s",
        ),
        ("[metrics]\naddress = \"localhost\"", "metrics.address"),
        ("[opt]\npath = \"opt\"", "opt.path"),
    ] {
        let refusal = Config::parse(text).unwrap().check().unwrap_err();
        assert!(refusal.detail.contains(word), "{refusal}");
    }
    let nobody = Config::parse("[socket]\ngroup = \"no such group\"").unwrap();
    assert!(nobody.socket.gid().unwrap_err().detail.contains("no such group"));
}

#[test]
fn a_named_file_must_be_there_and_the_usual_one_need_not() {
    let refusal = Config::load(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
    assert!(refusal.detail.contains("/nonexistent/config.toml"), "{refusal}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "rot = 1").unwrap();
    let refusal = Config::load(Some(&path)).unwrap_err();
    assert!(refusal.detail.contains("c.toml: line 1: "), "{refusal}");
}
