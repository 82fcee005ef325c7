use super::*;
use crate::{
    Descriptor, Digest, ImageName, Labels, Namespace, SnapshotKey, Timestamp,
    event::{Event, EventRecord, Seq},
    image::Image,
    snapshot::{SnapshotInfo, SnapshotKind},
    task::Exit,
};
use proptest::prelude::*;

struct Thing {
    name: &'static str,
    other: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

impl Fields for Thing {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let found = match path[0].as_str() {
            "name" => Some(self.name),
            "other" => Some(self.other),
            "labels" => {
                let key = path[1..].join(".");
                return self.labels.iter().find(|(k, _)| *k == key).map(|(_, v)| Cow::Borrowed(*v));
            }
            _ => None,
        };
        found.filter(|value| !value.is_empty()).map(Cow::Borrowed)
    }
}

const THINGS: &[Thing] = &[
    Thing { name: "foo", other: "", labels: &[("foo", "true")] },
    Thing { name: "bar", other: "", labels: &[] },
    Thing { name: "foo", other: "", labels: &[("foo", "here"), ("with space", "here")] },
    Thing { name: "bar", other: "", labels: &[("bar", "true")] },
    Thing { name: "quoter", other: "", labels: &[("a \\ and \"", "here")] },
    Thing { name: "quoter", other: "", labels: &[("a \\ and \".post", "here")] },
    Thing { name: "baz", other: "two words, yo", labels: &[] },
    Thing { name: "bazo", other: "abc", labels: &[] },
    Thing { name: "last", other: "牛", labels: &[("foo", "omg_asdf.asdf-qwer"), ("containerd.io/gc.root", "x/y")] },
];

#[test]
fn filters_select_what_containerds_do() {
    for (filter, want) in [
        ("", &[0, 1, 2, 3, 4, 5, 6, 7, 8][..]),
        ("name", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("other", &[6, 7, 8]),
        ("nothing", &[]),
        ("labels.foo", &[0, 2, 8]),
        ("labels.foo,name", &[0, 2, 8]),
        ("labels.foo==true", &[0]),
        ("labels.foo==omg_asdf.asdf-qwer", &[8]),
        ("name==bar", &[1, 3]),
        ("name!=bar", &[0, 2, 4, 5, 6, 7, 8]),
        // What is not there differs from everything and equals nothing.
        ("other!=abc", &[0, 1, 2, 3, 4, 5, 6, 8]),
        (r#"other=="""#, &[]),
        ("other~=^$", &[0, 1, 2, 3, 4, 5]),
        ("name==bar,labels.bar", &[3]),
        (r#"other=="two words, yo""#, &[6]),
        ("other~=[abc]+,name!=foo", &[7]),
        ("other~=/[abc]+/,name!=foo", &[7]),
        ("other~=|[abc]{1,2}|", &[7]),
        (r"name~=^ba\w$", &[1, 3, 6]),
        (r#"other~=/[abc]{0,1}"\//"#, &[]),
        ("name==bar,labels.bar==wrong", &[]),
        (r#"name==foo,labels."with space""#, &[2]),
        (r#"labels."a \\ and \""==here"#, &[4]),
        (r#"labels."a \\ and \"".post==here"#, &[5]),
        (r#"labels."containerd.io/gc.root"==x/y"#, &[8]),
        (r#"labels.containerd."io/gc".root==x/y"#, &[8]),
        ("name == bar", &[1, 3]),
        ("  name==bar", &[1, 3]),
        ("other~=牛", &[8]),
        (r#"other=="\u725b""#, &[8]),
        (r#"other=="\xe7\x89\x9b""#, &[8]),
        (r#"other=="\347\211\233""#, &[8]),
        (r#""name"==bar"#, &[1, 3]),
    ] {
        let parsed = Filter::parse(filter).unwrap_or_else(|refusal| panic!("{filter}: {refusal}"));
        let got: Vec<usize> = (0..THINGS.len()).filter(|i| parsed.matches(&THINGS[*i])).collect();
        assert_eq!(got, want, "{filter}");
    }
}

#[test]
fn malformed_filters_are_refused_in_containerds_words() {
    for (filter, why) in [
        ("labels.|foo|==x", "[labels. >|||< foo|==x]: invalid quote encountered"),
        (r#"labels.?"a"==x"#, r#"[labels. >|?|< "a"==x]: expected field or quoted"#),
        ("name==foo,", "[name==foo,]: expected field or quoted"),
        ("labels.", "[labels.]: expected field or quoted"),
        ("image~=,id?=?fbaq", "[image~= >|,|< id?=?fbaq]: expected value or quoted"),
        ("labels.ns/key==value", "[labels.ns >|/|< key==value]: quoted literal not terminated"),
        ("labels.key==/value", "[labels.key== >|/|< value]: quoted literal not terminated"),
        ("name=foo", r#"[name >|=|< foo]: unsupported operator "=""#),
        ("name===foo", r#"[name >|=|< ==foo]: unsupported operator "===""#),
        ("name foo", r#"[name  >|f|< oo]: expected an operator ("=="|"!="|"~=")"#),
        ("name-x==foo", r#"[name >|-|< x==foo]: expected an operator ("=="|"!="|"~=")"#),
        ("name==a b", "[name==a >| |< b]: unexpected input:  "),
        ("name==", "[name==]: expected value or quoted"),
        ("==x", "[ >|=|< =x]: expected field or quoted"),
        (r#"labels."\g""#, r#"[labels. >|"|< \g"]: illegal escape sequence"#),
        (r#"labels."\xaz""#, r#"[labels. >|"|< \xaz"]: illegal numeric escape sequence"#),
        (r"name~=/\d/", r"[name~= >|/|< \d/]: illegal escape sequence"),
        ("labels.\"a\nb\"", "[labels. >|\"|< a\nb\"]: quoted literal not terminated"),
        ("name\0", "[name >|\0|< ]: unexpected null"),
        (r#"name=="\777""#, r#"[name== >|"|< \777"]: unquoting failed: quote syntax error"#),
        (r#"name=="\xff""#, r#"[name== >|"|< \xff"]: unquoting failed: quote syntax error"#),
        ("name==|x|", "[name== >|||< x|]: invalid quote encountered"),
    ] {
        let refusal = Filter::parse(filter).expect_err(filter);
        assert_eq!(refusal.to_string(), format!("filters: parse error: {why}: invalid argument"), "{filter}");
    }
}

#[test]
fn regular_expressions_are_checked_and_bounded() {
    for pattern in ["name~=(", "name~=*a", "name~=[z-a]"] {
        assert!(Filter::parse(pattern).unwrap_err().detail.starts_with("filters: regular expression "), "{pattern}");
    }
    let refusal = Filter::parse("name~=/(((a{100}){100}){100})/").unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::InvalidArgument);
    assert!(refusal.detail.contains("size limit"), "{refusal}");
    assert!(Filter::parse(&"n".repeat(FILTER_MAX_BYTES + 1)).is_err());
    assert!(Filters::parse(&vec!["name"; FILTERS_MAX + 1]).is_err());
}

#[test]
fn a_list_is_an_or() {
    let both = Filters::parse(&["name==bar,labels.bar", "other==abc"]).unwrap();
    let got: Vec<usize> = (0..THINGS.len()).filter(|i| both.matches(&THINGS[*i])).collect();
    assert_eq!(got, [3, 7]);
    assert!(THINGS.iter().all(|thing| Filters::parse::<&str>(&[]).unwrap().matches(thing)));
    assert!(THINGS.iter().all(|thing| Filters::parse(&["name==nobody", ""]).unwrap().matches(thing)));
    assert!(Filters::parse(&["name", "na me"]).is_err());
}

fn image() -> Image {
    let mut target = Descriptor::new("application/x", Digest::from_sha256(&[7; 32]), 1);
    target.annotations.insert("org.x".to_owned(), "1".to_owned());
    Image {
        name: ImageName::new("docker.io/library/busybox:latest").unwrap(),
        target,
        labels: Labels::from([("a.b".to_owned(), "c".to_owned())]),
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
    }
}

#[test]
fn nouns_answer_by_containerds_names() {
    let image = image();
    for (filter, matches) in [
        ("name==docker.io/library/busybox:latest", true),
        ("name~=busybox", true),
        ("target.digest~=^sha256:0707", true),
        ("target.mediatype==application/x", true),
        ("target", false),
        ("labels.a.b==c", true),
        ("labels", false),
        ("annotations.org.x==1", true),
        ("size", false),
    ] {
        assert_eq!(Filter::parse(filter).unwrap().matches(&image), matches, "{filter}");
    }
    let snapshot = SnapshotInfo {
        key: SnapshotKey::new("k").unwrap(),
        parent: None,
        kind: SnapshotKind::Committed,
        labels: Labels::new(),
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
    };
    for (filter, matches) in [("kind==committed", true), ("name==k", true), (r#"parent=="""#, true), ("parent", true)] {
        assert_eq!(Filter::parse(filter).unwrap().matches(&snapshot), matches, "{filter}");
    }
}

#[test]
fn events_answer_by_the_names_of_containerds_payloads() {
    let record = EventRecord {
        seq: Seq(1),
        at: Timestamp::ZERO,
        namespace: Some(Namespace::new("k8s.io").unwrap()),
        event: Event::TaskExited {
            container_id: crate::ContainerId::new("web").unwrap(),
            exec_id: None,
            pid: 7,
            exit: Exit { code: 137, exited_at: Timestamp::ZERO, oom: true },
        },
        late: false,
    };
    for (filter, matches) in [
        (r#"topic=="/tasks/exit""#, true),
        ("topic==/tasks/exit", false),
        (r#"topic~="/tasks/""#, true),
        ("namespace==k8s.io", true),
        ("event.container_id==web", true),
        ("event.id==web", true),
        ("event.exit_status==137", true),
        ("event.exec_id", false),
        ("event", false),
    ] {
        match Filter::parse(filter) {
            Ok(parsed) => assert_eq!(parsed.matches(&record), matches, "{filter}"),
            // A value that begins with a slash is a quoted one, which == does not take.
            Err(refusal) => assert!(!matches && refusal.detail.contains("quote"), "{filter}: {refusal}"),
        }
    }
}

proptest! {
    #[test]
    fn nothing_makes_the_parser_panic(text in "[a-z.,=!~\"'/|\\\\ \0\n\u{e9}xu0-9\\[\\](){}*+?]{0,40}") {
        if let Ok(filter) = Filter::parse(&text) {
            let _ = filter.matches(&THINGS[0]); // Whatever it says.
        }
    }

    #[test]
    fn a_quoted_value_selects_itself(value in "\\PC{0,40}") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = Filter::parse(&format!("labels.\"{quoted}\"==\"{quoted}\"")).unwrap();
        let mut image = image();
        image.labels.insert(value.clone(), value);
        prop_assert!(filter.matches(&image));
    }
}
