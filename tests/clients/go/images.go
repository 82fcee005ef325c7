package main

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/images/archive"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/containerd/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// refused prints the kind of an error that had to come.
func (f *flow) refused(doing string, err error) {
	kinds := map[string]func(error) bool{
		"already exists":      errdefs.IsAlreadyExists,
		"failed precondition": errdefs.IsFailedPrecondition,
		"invalid argument":    errdefs.IsInvalidArgument,
		"not found":           errdefs.IsNotFound,
		"unavailable":         errdefs.IsUnavailable,
	}
	for kind, is := range kinds {
		if is(err) {
			f.say("%s: %s", doing, kind)
			return
		}
	}
	f.say("%s: %v", doing, err)
}

// fetch pulls the image over plain HTTP, and unpacks it.
func (f *flow) fetch(options ...containerd.RemoteOpt) (containerd.Image, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	options = append(options, containerd.WithResolver(resolver), containerd.WithPullUnpack)
	return f.client.Pull(f.ctx, f.ref, options...)
}

// pull fetches and unpacks the image, and looks at it.
func (f *flow) pull() containerd.Image {
	image, err := f.fetch(containerd.WithPullLabel("from", "flow"))
	must("pull", err)
	f.say("image %s %v %s %d", image.Name(), image.Labels(), image.Target().MediaType, image.Target().Size)
	again, err := f.fetch()
	must("pull again", err)
	f.say("the same again: %v", again.Target().Digest == image.Target().Digest)
	unpacked, err := image.IsUnpacked(f.ctx, "overlayfs")
	must("ask whether it is unpacked", err)
	size, err := image.Size(f.ctx)
	must("ask for its size", err)
	rootfs, err := image.RootFS(f.ctx)
	must("read its layers", err)
	f.say("unpacked %v, size %d, layers %v", unpacked, size, rootfs)
	for _, filter := range []string{"name==" + f.ref, "labels.from==flow", "target.mediatype~=manifest", "name==none"} {
		found, err := f.client.ListImages(f.ctx, filter)
		must("list images", err)
		f.say("images with %s: %d", filter, len(found))
	}
	_, err = f.client.ListImages(f.ctx, "name=")
	f.refused("list images with half a filter", err)
	store := f.client.ImageService()
	_, err = store.Create(f.ctx, images.Image{Name: f.ref, Target: image.Target()})
	f.refused("create it again", err)
	changed, err := store.Update(f.ctx, images.Image{Name: f.ref, Labels: map[string]string{"from": "update"}}, "labels.from")
	must("update the image", err)
	f.say("labels are %v, target stays %v", changed.Labels, changed.Target.Digest == image.Target().Digest)
	return image
}

// content reads, writes, resumes and removes blobs, and takes the image out and in again.
func (f *flow) content(image containerd.Image) {
	store := f.client.ContentStore()
	var lines []string
	must("walk the content", store.Walk(f.ctx, func(info content.Info) error {
		lines = append(lines, fmt.Sprintf("%s %d %s", info.Digest, info.Size, sorted(info.Labels)))
		return nil
	}))
	sort.Strings(lines)
	for _, line := range lines {
		f.say("content %s", line)
	}
	config, err := image.Config(f.ctx)
	must("find the configuration", err)
	blob, err := content.ReadBlob(f.ctx, store, config)
	must("read the configuration", err)
	f.say("read %d bytes, digest right: %v", len(blob), digest.FromBytes(blob) == config.Digest)
	reader, err := store.ReaderAt(f.ctx, config)
	must("open the configuration", err)
	part := make([]byte, 10)
	_, err = reader.ReadAt(part, 5)
	must("read a part", err)
	reader.Close()
	f.say("a part is right: %v", bytes.Equal(part, blob[5:15]))

	data := bytes.Repeat([]byte("written in two halves "), 10000)
	expected := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	writer, err := content.OpenWriter(f.ctx, store, content.WithRef("halves"), content.WithDescriptor(expected))
	must("open a writer", err)
	_, err = writer.Write(data[:len(data)/2])
	must("write the first half", err)
	_, err = store.Writer(f.ctx, content.WithRef("halves"))
	f.refused("open a second writer", err)
	must("close the writer", writer.Close())
	statuses, err := store.ListStatuses(f.ctx, "ref==halves")
	must("list ingests", err)
	f.say("ingests: %d at %d of %d", len(statuses), statuses[0].Offset, len(data))
	writer, err = content.OpenWriter(f.ctx, store, content.WithRef("halves"), content.WithDescriptor(expected))
	must("open the writer again", err)
	status, err := writer.Status()
	must("ask for its status", err)
	_, err = writer.Write(data[status.Offset:])
	must("write the second half", err)
	f.refused("commit with a wrong size", writer.Commit(f.ctx, 7, expected.Digest))
	must("close the writer", writer.Close())
	must("write it whole", content.WriteBlob(f.ctx, store, "whole", bytes.NewReader(data), expected,
		content.WithLabels(map[string]string{"containerd.io/gc.root": "now"})))
	must("write it again", content.WriteBlob(f.ctx, store, "whole", bytes.NewReader(data), expected))
	info, err := store.Update(f.ctx, content.Info{Digest: expected.Digest, Labels: map[string]string{"more": "yes"}}, "labels.more")
	must("label a blob", err)
	f.say("blob %d %s", info.Size, sorted(info.Labels))
	must("delete a blob", store.Delete(f.ctx, expected.Digest))
	f.refused("delete it again", store.Delete(f.ctx, expected.Digest))
	f.refused("abort an unknown ingest", store.Abort(f.ctx, "unknown"))

	// Under a name of its own the image goes out and comes in again.
	copied, err := f.client.ImageService().Create(f.ctx, images.Image{Name: "flow/copy:1", Target: image.Target()})
	must("tag", err)
	var exported bytes.Buffer
	must("export", f.client.Export(f.ctx, &exported, archive.WithImage(f.client.ImageService(), copied.Name)))
	must("untag", f.client.ImageService().Delete(f.ctx, copied.Name, images.SynchronousDelete()))
	imported, err := f.client.Import(f.ctx, &exported)
	must("import", err)
	for _, found := range imported {
		f.say("imported %s, the same: %v", found.Name, found.Target.Digest == image.Target().Digest)
		must("delete it", f.client.ImageService().Delete(f.ctx, found.Name, images.SynchronousDelete()))
	}
}

// sorted spells labels in the order of their keys.
func sorted(labels map[string]string) string {
	var words []string
	for key, value := range labels {
		words = append(words, key+"="+value)
	}
	sort.Strings(words)
	return strings.Join(words, " ")
}

// snapshots walks them, and makes, commits, compares and removes some.
func (f *flow) snapshots(image containerd.Image) {
	snapshotter := f.client.SnapshotService("overlayfs")
	var lines []string
	walk := func(ctx context.Context, info snapshots.Info) error {
		usage, err := snapshotter.Usage(ctx, info.Name)
		lines = append(lines, fmt.Sprintf("%v %s on %q %s inodes=%d", info.Kind, info.Name, info.Parent, sorted(info.Labels), usage.Inodes))
		return err
	}
	must("walk the snapshots", snapshotter.Walk(f.ctx, walk))
	sort.Strings(lines)
	for _, line := range lines {
		f.say("snapshot %s", line)
	}
	top, err := topLayer(f.ctx, image)
	must("find the top layer", err)
	mounts, err := snapshotter.Prepare(f.ctx, "work", top, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	must("prepare", err)
	f.say("prepared: %d mount of type %s", len(mounts), mounts[0].Type)
	_, err = snapshotter.Prepare(f.ctx, "work", top)
	f.refused("prepare it again", err)
	view, err := snapshotter.View(f.ctx, "look", top)
	must("view", err)
	difference, err := f.client.DiffService().Compare(f.ctx, view, mounts)
	must("compare", err)
	f.say("difference %s, something: %v", difference.MediaType, difference.Size > 0)
	must("remove the view", snapshotter.Remove(f.ctx, "look"))
	must("commit", snapshotter.Commit(f.ctx, "done", "work", snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"})))
	info, err := snapshotter.Stat(f.ctx, "done")
	must("stat", err)
	f.say("committed: %v, parent right: %v", info.Kind, info.Parent == top)
	f.refused("remove its parent", snapshotter.Remove(f.ctx, top))
	_, err = snapshotter.Mounts(f.ctx, "done")
	f.refused("mount a committed one", err)
	must("remove", snapshotter.Remove(f.ctx, "done"))
	f.refused("remove it again", snapshotter.Remove(f.ctx, "done"))
	_, err = f.client.SnapshotService("unknown").Stat(f.ctx, "done")
	f.refused("use an unknown snapshotter", err)
}
