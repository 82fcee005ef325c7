//! Namespaces, leases, images and containers: masks, limits, what cannot change, and the words of refusals; containerd
//! itself is asked the same.

use crate::{
    client::{Answers, Daemon, compare, labels, mask, shown, within},
    proto::containerd::{
        services::{
            containers::v1::{
                Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
                UpdateContainerRequest, container::Runtime,
            },
            content::v1::InfoRequest,
            images::v1::{
                CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
            },
            leases::v1::{
                AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest,
                ListResourcesRequest, Resource,
            },
            namespaces::v1::{
                CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, Namespace,
                UpdateNamespaceRequest,
            },
        },
        types::Descriptor,
    },
};
use tonic::{Code, Request};

const DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// Why what is said of a long label differs.
const LONG: &str = "ours says how long, as later releases do";

fn long() -> String {
    format!("k={}", "v".repeat(4096))
}

#[tokio::test]
async fn namespaces() {
    let rule = "ours says of what it is the rule";
    let known = [
        ("create slash", rule),
        ("create dots", rule),
        ("create dash first", rule),
        ("create long", rule),
        ("unknown path", "ours names the namespace"),
        ("create empty", "ours says which rule"),
        ("create with a long label", LONG),
        ("create with a label without a key", "containerd does not say of which label"),
    ];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.namespaces().await;
        let namespace = |name: &str, texts: &[&str]| Some(Namespace { name: name.to_owned(), labels: labels(texts) });
        let mut create = async |answers: &mut Answers, step: &str, want, name: &str, texts: &[&str]| {
            let answer = client.create(within("n", CreateNamespaceRequest { namespace: namespace(name, texts) })).await;
            answers.done(step, want, answer);
        };
        create(answers, "create", Code::Ok, "one", &["a=1"]).await;
        create(answers, "create again", Code::AlreadyExists, "one", &[]).await;
        for (step, name) in
            [("empty", ""), ("slash", "a/b"), ("dots", "a..b"), ("dash first", "-a"), ("long", &"x".repeat(77))]
        {
            create(answers, &format!("create {step}"), Code::InvalidArgument, name, &[]).await;
        }
        create(answers, "create with a long label", Code::InvalidArgument, "two", &[&long()]).await;
        create(answers, "create with a label without a key", Code::Unknown, "two", &["=v"]).await;
        let get = |name: &str| within("n", GetNamespaceRequest { name: name.to_owned() });
        let see = |namespace: Option<Namespace>| namespace.map(|n| format!("{} {}", n.name, shown(&n.labels))).unwrap();
        let got = client.get(get("one")).await.map(|answer| answer.into_inner().namespace);
        answers.note("get", Code::Ok, got, see);
        for (step, want, texts, paths) in [
            ("one label", Code::Ok, &["b=2", "c=3"][..], &["labels.b"][..]),
            ("an empty value", Code::Ok, &["a="], &["labels.a"]),
            ("no mask", Code::Ok, &["e=5"], &[]),
            ("unknown path", Code::InvalidArgument, &["f=6"], &["name"]),
        ] {
            let update_mask = if paths.is_empty() { None } else { mask(paths) };
            let request = UpdateNamespaceRequest { namespace: namespace("one", texts), update_mask };
            let changed = client.update(within("n", request)).await.map(|answer| answer.into_inner().namespace);
            answers.note(step, want, changed, |_| String::new());
            let got = client.get(get("one")).await.map(|answer| answer.into_inner().namespace);
            answers.note(&format!("after {step}"), Code::Ok, got, see);
        }
        let mut delete = async |answers: &mut Answers, step: &str, want, name: &str| {
            let request = DeleteNamespaceRequest { name: name.to_owned() };
            answers.done(step, want, client.delete(within("n", request)).await);
        };
        let mut images = daemon.images().await;
        images
            .create(within("one", CreateImageRequest { image: Some(image("i", &[])), ..Default::default() }))
            .await
            .unwrap();
        delete(answers, "delete one that is not empty", Code::FailedPrecondition, "one").await;
        images.delete(within("one", DeleteImageRequest { name: "i".to_owned(), ..Default::default() })).await.unwrap();
        delete(answers, "delete", Code::Ok, "one").await;
        delete(answers, "delete again", Code::NotFound, "one").await;
        let listed = client.list(within("n", ListNamespacesRequest::default())).await.unwrap().into_inner();
        assert!(listed.namespaces.iter().all(|namespace| namespace.name != "one"), "{}", daemon.name());
    })
    .await;
}

#[tokio::test]
async fn leases() {
    let known = [("malformed filter", "containerd says the suffix twice")];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.leases().await;
        let create = |id: &str, texts: &[&str]| within("n", CreateRequest { id: id.to_owned(), labels: labels(texts) });
        let see = |answer: tonic::Response<_>| -> String {
            let lease: crate::proto::containerd::services::leases::v1::CreateResponse = answer.into_inner();
            let lease = lease.lease.unwrap();
            format!("{} {}", lease.id, shown(&lease.labels))
        };
        answers.note("create", Code::Ok, client.create(create("one", &["a=1"])).await, see);
        answers.done("create again", Code::AlreadyExists, client.create(create("one", &[])).await);
        let unnamed = client.create(create("", &[])).await;
        answers.note("create without a name", Code::Ok, unnamed, |answer| {
            (!answer.into_inner().lease.unwrap().id.is_empty()).to_string()
        });
        let resource = |kind: &str, id: &str| Some(Resource { id: id.to_owned(), r#type: kind.to_owned() });
        for (step, want, lease, kind, id) in [
            ("add content", Code::Ok, "one", "content", DIGEST),
            ("add it again", Code::Ok, "one", "content", DIGEST),
            ("add a snapshot", Code::Ok, "one", "snapshots/overlayfs", "key"),
            ("add an ingest", Code::Ok, "one", "ingests", "ref"),
            ("unknown resource", Code::Unimplemented, "one", "toasters", "x"),
            ("add to nobody", Code::NotFound, "nobody", "content", DIGEST),
        ] {
            let request = AddResourceRequest { id: lease.to_owned(), resource: resource(kind, id) };
            answers.done(step, want, client.add_resource(within("n", request)).await);
        }
        let mut list = async |answers: &mut Answers, step: &str, want, id: &str| {
            let listed = client.list_resources(within("n", ListResourcesRequest { id: id.to_owned() })).await;
            answers.note(step, want, listed, |answer| {
                let mut all: Vec<_> =
                    answer.into_inner().resources.iter().map(|r| format!("{} {}", r.r#type, r.id)).collect();
                all.sort();
                all.join(", ")
            });
        };
        list(answers, "resources", Code::Ok, "one").await;
        list(answers, "resources of nobody", Code::NotFound, "nobody").await;
        let request = DeleteResourceRequest { id: "one".to_owned(), resource: resource("ingests", "ref") };
        answers.done("take one out", Code::Ok, client.delete_resource(within("n", request.clone())).await);
        answers.done("take it out again", Code::Ok, client.delete_resource(within("n", request)).await);
        let list = |filter: &str| within("n", ListRequest { filters: vec![filter.to_owned()] });
        for (filter, want) in [("id==one", 1), ("labels.a==1", 1), ("labels.a==2", 0), ("", 2)] {
            let listed = client.list(list(filter)).await.unwrap().into_inner().leases;
            assert_eq!(listed.len(), want, "{}: {filter:?}", daemon.name());
        }
        answers.done("malformed filter", Code::InvalidArgument, client.list(list("id==")).await);
        let delete = |id: &str| within("n", DeleteRequest { id: id.to_owned(), sync: true });
        answers.done("delete", Code::Ok, client.delete(delete("one")).await);
        answers.done("delete again", Code::NotFound, client.delete(delete("one")).await);
        // A call in a lease that is not there.
        let mut images = daemon.images().await;
        let mut request = within("n", CreateImageRequest { image: Some(image("i", &[])), ..Default::default() });
        request.metadata_mut().insert("containerd-lease", "one".parse().unwrap());
        let made = images.create(request).await;
        assert!(made.is_ok() || made.is_err_and(|status| status.code() == Code::NotFound));
    })
    .await;
}

fn target() -> Descriptor {
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    Descriptor { media_type, digest: DIGEST.to_owned(), size: 5, ..Descriptor::default() }
}

fn image(name: &str, texts: &[&str]) -> Image {
    Image { name: name.to_owned(), labels: labels(texts), target: Some(target()), ..Image::default() }
}

fn seen(image: Option<Image>) -> String {
    let image = image.unwrap();
    let target = image.target.unwrap();
    format!("{} [{}] {} {} {}", image.name, shown(&image.labels), target.digest, target.media_type, target.size)
}

#[tokio::test]
async fn images() {
    let known = [
        ("create without a name", "containerd forgets the suffix"),
        ("create without a target", "ours says what is missing"),
        ("create with a strange digest", "ours says which algorithms there are"),
        ("malformed filter", "containerd says the suffix twice"),
        ("create without a size", "ours spells the field as it does elsewhere"),
        ("create without a type", "ours spells the field as it does elsewhere"),
        ("create with a long label", LONG),
        ("create with a label without a key", "containerd says what it was doing"),
        ("a long label", LONG),
    ];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.images().await;
        let create = |image: Image| within("n", CreateImageRequest { image: Some(image), ..Default::default() });
        let unsized_target = Descriptor { size: 0, ..target() };
        let untyped = Descriptor { media_type: String::new(), ..target() };
        let strange = Descriptor { digest: "md5:0".to_owned(), ..target() };
        for (step, want, image) in [
            ("create", Code::Ok, image("one", &["a=1"])),
            ("create again", Code::AlreadyExists, image("one", &[])),
            ("create without a name", Code::InvalidArgument, image("", &[])),
            ("create without a target", Code::InvalidArgument, Image { target: None, ..image("two", &[]) }),
            (
                "create without a size",
                Code::InvalidArgument,
                Image { target: Some(unsized_target), ..image("two", &[]) },
            ),
            ("create without a type", Code::InvalidArgument, Image { target: Some(untyped), ..image("two", &[]) }),
            (
                "create with a strange digest",
                Code::InvalidArgument,
                Image { target: Some(strange), ..image("two", &[]) },
            ),
            ("create with a long label", Code::InvalidArgument, image("two", &[&long()])),
            ("create with a label without a key", Code::Unknown, image("two", &["=v"])),
        ] {
            answers.note(step, want, client.create(create(image)).await.map(|a| a.into_inner().image), seen);
        }
        let get = |name: &str| within("n", GetImageRequest { name: name.to_owned() });
        answers.done("get of nobody", Code::NotFound, client.get(get("nobody")).await);
        let elsewhere = client.get(within("m", GetImageRequest { name: "one".to_owned() })).await;
        answers.done("get elsewhere", Code::NotFound, elsewhere);
        let bigger = Image { target: Some(Descriptor { size: 9, ..target() }), ..image("one", &["b=2", "c=3"]) };
        for (step, want, image, paths) in [
            ("one label", Code::Ok, bigger.clone(), &["labels.b"][..]),
            ("an empty value", Code::Ok, image("one", &["a="]), &["labels.a"]),
            ("all labels", Code::Ok, bigger.clone(), &["labels"]),
            ("the target", Code::Ok, bigger.clone(), &["target"]),
            ("no mask", Code::Ok, image("one", &["d=4"]), &[]),
            ("unknown path", Code::InvalidArgument, bigger.clone(), &["created_at"]),
            ("nobody", Code::NotFound, image("nobody", &[]), &["labels"]),
            ("a long label", Code::InvalidArgument, image("one", &[&long()]), &["labels.k"]),
        ] {
            let update_mask = if paths.is_empty() { None } else { mask(paths) };
            let request = UpdateImageRequest { image: Some(image), update_mask, ..Default::default() };
            let changed = client.update(within("n", request)).await.map(|answer| answer.into_inner().image);
            answers.note(step, want, changed, seen);
            answers.note(
                &format!("after {step}"),
                Code::Ok,
                client.get(get("one")).await.map(|a| a.into_inner().image),
                seen,
            );
        }
        client.create(create(image("two", &["a=2"]))).await.unwrap();
        for (filters, want) in [
            (vec!["name==one"], 1),
            (vec!["name~=^(one|two)$"], 2),
            (vec!["name==one", "labels.a==2"], 2),
            (vec!["name==one,labels.a==2"], 0),
            (vec![&*format!("target.digest=={DIGEST}")], 2),
            (vec![""], 2),
            (vec![], 2),
        ] {
            let filters = filters.into_iter().map(str::to_owned).collect();
            let listed = client.list(within("n", ListImagesRequest { filters })).await.unwrap().into_inner().images;
            assert_eq!(listed.len(), want, "{}", daemon.name());
        }
        let request = ListImagesRequest { filters: vec!["name==".to_owned()] };
        answers.done("malformed filter", Code::InvalidArgument, client.list(within("n", request)).await);
        let delete = |name: &str| within("n", DeleteImageRequest { name: name.to_owned(), ..Default::default() });
        answers.done("delete", Code::Ok, client.delete(delete("one")).await);
        answers.done("delete again", Code::NotFound, client.delete(delete("one")).await);
        // Names are all that went.
        let info = within("n", InfoRequest { digest: DIGEST.to_owned() });
        assert_eq!(daemon.content().await.info(info).await.unwrap_err().code(), Code::NotFound);
    })
    .await;
}

fn container(id: &str, texts: &[&str]) -> Container {
    let spec = wharf_grpc::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
        value: b"{}".to_vec().into(),
    };
    Container {
        id: id.to_owned(),
        labels: labels(texts),
        image: "image".to_owned(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
        spec: Some(spec),
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: id.to_owned(),
        ..Container::default()
    }
}

fn told(container: Option<Container>) -> String {
    let c = container.unwrap();
    let (runtime, spec) = (c.runtime.unwrap().name, c.spec.map(|spec| spec.value).unwrap_or_default());
    let spec = String::from_utf8(spec.into()).unwrap();
    let extensions: Vec<_> = c.extensions.keys().cloned().collect();
    format!(
        "{} [{}] {} {runtime} {spec} {} {} {extensions:?}",
        c.id,
        shown(&c.labels),
        c.image,
        c.snapshotter,
        c.snapshot_key
    )
}

#[tokio::test]
async fn containers() {
    let known = [
        ("create without a name", "containerd says what it was doing"),
        ("create with a name that is none", "containerd says what it was doing"),
        ("malformed filter", "containerd says the suffix twice"),
        ("create with a key without a snapshotter", "containerd says what it was doing"),
        ("create with a long label", LONG),
        ("create with a label without a key", "containerd says what it was doing"),
        ("a long label", LONG),
        ("nobody", "ours says in which namespace"),
        ("delete again", "ours says in which namespace"),
        ("after no mask", "containerd keeps extensions that it was told to replace by none"),
        ("after nobody", "as above"),
        ("after a long label", "as above"),
    ];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.containers().await;
        let create = |container| within("n", CreateContainerRequest { container: Some(container) });
        for (step, want, container) in [
            ("create", Code::Ok, container("one", &["a=1"])),
            ("create again", Code::AlreadyExists, container("one", &[])),
            ("create without a name", Code::InvalidArgument, container("", &[])),
            ("create with a name that is none", Code::InvalidArgument, container("../x", &[])),
            ("create without a runtime", Code::InvalidArgument, Container { runtime: None, ..container("two", &[]) }),
            ("create without a spec", Code::InvalidArgument, Container { spec: None, ..container("two", &[]) }),
            (
                "create with a key without a snapshotter",
                Code::InvalidArgument,
                Container { snapshotter: String::new(), ..container("two", &[]) },
            ),
            ("create with a long label", Code::InvalidArgument, container("two", &[&long()])),
            ("create with a label without a key", Code::Unknown, container("two", &["=v"])),
        ] {
            answers.note(step, want, client.create(create(container)).await.map(|a| a.into_inner().container), told);
        }
        let get = |id: &str| within("n", GetContainerRequest { id: id.to_owned() });
        answers.done("get of nobody", Code::NotFound, client.get(get("nobody")).await);
        let other = Container {
            image: "other".to_owned(),
            snapshot_key: "other".to_owned(),
            spec: Some(wharf_grpc::Any { value: b"{\"x\":1}".to_vec().into(), ..container("one", &[]).spec.unwrap() }),
            extensions: [("e".to_owned(), wharf_grpc::Any::default())].into(),
            ..container("one", &["b=2", "c=3"])
        };
        let runtime = Container {
            runtime: Some(Runtime { name: "io.containerd.other.v1".to_owned(), options: None }),
            ..other.clone()
        };
        let snapshotter = Container { snapshotter: "native".to_owned(), ..other.clone() };
        for (step, want, container, paths) in [
            ("one label", Code::Ok, other.clone(), &["labels.b"][..]),
            ("an empty value", Code::Ok, container("one", &["a="]), &["labels.a"]),
            ("labels", Code::Ok, other.clone(), &["labels"]),
            ("image", Code::Ok, other.clone(), &["image"]),
            ("spec", Code::Ok, other.clone(), &["spec"]),
            ("snapshot key", Code::Ok, other.clone(), &["snapshotkey"]),
            ("extensions", Code::Ok, other.clone(), &["extensions"]),
            ("one extension", Code::Ok, other.clone(), &["extensions.e"]),
            ("runtime", Code::InvalidArgument, runtime.clone(), &["runtime"]),
            ("snapshotter", Code::InvalidArgument, snapshotter.clone(), &["snapshotter"]),
            ("unknown path", Code::InvalidArgument, other.clone(), &["id"]),
            ("no mask, another runtime", Code::InvalidArgument, runtime, &[]),
            ("no mask, another snapshotter", Code::InvalidArgument, snapshotter, &[]),
            ("no mask", Code::Ok, container("one", &["d=4"]), &[]),
            ("nobody", Code::NotFound, container("nobody", &[]), &["labels"]),
            ("a long label", Code::InvalidArgument, container("one", &[&long()]), &["labels.k"]),
        ] {
            let update_mask = if paths.is_empty() { None } else { mask(paths) };
            let request = UpdateContainerRequest { container: Some(container), update_mask };
            let changed = client.update(within("n", request)).await.map(|answer| answer.into_inner().container);
            answers.note(step, want, changed, told);
            answers.note(
                &format!("after {step}"),
                Code::Ok,
                client.get(get("one")).await.map(|a| a.into_inner().container),
                told,
            );
        }
        for (filter, want) in
            [("id==one", 1), ("runtime.name~=runc", 1), ("image==image", 1), ("labels.d", 1), ("labels.zz", 0), ("", 1)]
        {
            let request = || within("n", ListContainersRequest { filters: vec![filter.to_owned()] });
            assert_eq!(client.list(request()).await.unwrap().into_inner().containers.len(), want, "{filter:?}");
            let mut streamed = client.list_stream(request()).await.unwrap().into_inner();
            let mut count = 0;
            while streamed.message().await.unwrap().is_some() {
                count += 1;
            }
            assert_eq!(count, want, "{}: {filter:?}", daemon.name());
        }
        let request = ListContainersRequest { filters: vec!["id==".to_owned()] };
        answers.done("malformed filter", Code::InvalidArgument, client.list(within("n", request)).await);
        let delete = |id: &str| within("n", DeleteContainerRequest { id: id.to_owned() });
        answers.done("delete", Code::Ok, client.delete(delete("one")).await);
        answers.done("delete again", Code::NotFound, client.delete(delete("one")).await);
    })
    .await;
}

#[tokio::test]
async fn a_call_needs_a_namespace_that_can_be_one() {
    let known = [("a name that is none", "ours says which rule")];
    compare(&known, async |daemon, answers| {
        let mut images = daemon.images().await;
        let list = ListImagesRequest::default;
        answers.done("no namespace", Code::FailedPrecondition, images.list(Request::new(list())).await);
        answers.done("a name that is none", Code::InvalidArgument, images.list(within("a/b", list())).await);
        answers.done("one that nobody made", Code::Ok, images.list(within("nobody", list())).await);
    })
    .await;
    // Reading makes none.
    let daemon = Daemon::start();
    daemon.images().await.list(within("nobody", ListImagesRequest::default())).await.unwrap();
    let listed = daemon.namespaces().await.list(Request::new(ListNamespacesRequest::default())).await.unwrap();
    assert!(listed.into_inner().namespaces.is_empty());
}
