//! Docker's config.json and helpers.

use super::*;
use std::fs;

struct Home(tempfile::TempDir);

impl Home {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        Self(dir)
    }

    fn helper(self, name: &str, script: &str) -> Self {
        let (text, path) = (self.0.path().join(name), self.0.path().join(format!("docker-credential-{name}")));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Another process writes the program: a descriptor of ours, open for writing, could leak into the child of a
        // test in parallel and make it "text file busy".
        assert!(std::process::Command::new("install").arg("-m755").arg(&text).arg(&path).status().unwrap().success());
        self
    }

    async fn find(&self, authority: &str) -> Answer<Option<Credentials>> {
        let dir = self.0.path();
        DockerCredentials { config: Some(dir.join("config.json")), helper_dirs: vec![dir.to_owned()] }
            .find(authority)
            .await
    }
}

fn password(username: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password { username: username.into(), password: Secret::new(password) })
}

#[tokio::test]
async fn entries_are_found_under_all_their_names() {
    // dTpwOnE= is u:p:q
    let home = Home::new(
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "quay.io": {"username": "a", "password": "b"},
            "http://127.0.0.1:5000/v2/": {"auth": "dTpwOnE=", "email": "x"},
            "id.example": {"auth": "dTpwOnE=", "identitytoken": "idt"},
            "reg.example": {"registrytoken": "regt"},
            "noted.example": {},
            "broken.example": {"auth": "%%"}
        }, "HttpHeaders": {"x": "y"}}"#,
    );
    assert_eq!(home.find("registry-1.docker.io").await.unwrap(), password("u", "p:q"));
    assert_eq!(home.find("quay.io").await.unwrap(), password("a", "b"));
    assert_eq!(home.find("127.0.0.1:5000").await.unwrap(), password("u", "p:q"));
    assert_eq!(home.find("id.example").await.unwrap(), Some(Credentials::IdentityToken(Secret::new("idt"))));
    assert_eq!(home.find("reg.example").await.unwrap(), Some(Credentials::RegistryToken(Secret::new("regt"))));
    for nobody in ["noted.example", "127.0.0.1", "evil-quay.io", "quay.io:444"] {
        assert_eq!(home.find(nobody).await.unwrap(), None, "{nobody}");
    }
    let error = home.find("broken.example").await.unwrap_err().to_string();
    assert!(error.contains("broken.example") && !error.contains("%%"), "{error}");
}

#[tokio::test]
async fn a_missing_file_is_no_credentials_and_a_broken_one_is_an_error() {
    let missing = DockerCredentials { config: Some("/nonexistent/config.json".into()), helper_dirs: Vec::new() };
    assert_eq!(missing.find("quay.io").await.unwrap(), None);
    assert_eq!(DockerCredentials::default().find("quay.io").await.unwrap(), None);
    assert!(Home::new("{").find("quay.io").await.unwrap_err().detail.contains("config.json"));
}

#[tokio::test]
async fn helpers_are_asked_before_the_file() {
    let home = Home::new(
        r#"{"auths": {"store.example": {"auth": "dTpw"}, "kept.example": {"auth": "dTpw"}},
            "credsStore": "all", "credHelpers": {"one.example": "one", "bad.example": "../../bin/sh", "gone.example": "gone",
            "sick.example": "sick", "talks.example": "talks"}}"#,
    )
    .helper("one", r#"test "$1" = get && read -r server; echo "{\"ServerURL\":\"$server\",\"Username\":\"$server\",\"Secret\":\"s\"}""#)
    .helper(
        "all",
        r#"read -r server
        case $server in
          store.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}' ;;
          https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"h"}' ;;
          *) echo "credentials not found in native keychain"; exit 1 ;;
        esac"#,
    )
    .helper("sick", "echo 'keychain is locked'; exit 2")
    .helper("talks", "echo 'tops3cret'");
    assert_eq!(home.find("one.example").await.unwrap(), password("one.example", "s"));
    assert_eq!(home.find("store.example").await.unwrap(), Some(Credentials::IdentityToken(Secret::new("t"))));
    assert_eq!(home.find("registry-1.docker.io").await.unwrap(), password("hub", "h"));
    assert_eq!(home.find("kept.example").await.unwrap(), password("u", "p"));
    assert_eq!(home.find("unknown.example").await.unwrap(), None);
    for (host, words) in [
        ("bad.example", "the name must be"),
        ("gone.example", "not installed"),
        ("sick.example", "keychain is locked"),
        ("talks.example", "not the JSON"),
    ] {
        let error = home.find(host).await.unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("tops3cret"), "{error}");
    }
}
