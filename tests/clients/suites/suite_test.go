// Package suites runs containerd's own test suites for content stores and snapshotters against a daemon's socket,
// by the containerd client library as Debian packages it. `tests/system/suites.rs` builds and runs it.
package suites

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/content"
	contentsuite "github.com/containerd/containerd/content/testsuite"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	snapshotsuite "github.com/containerd/containerd/snapshots/testsuite"
)

var count uint64

// Every test has a namespace of its own: the suites mean each to begin with an empty store.
func namespace() string {
	return fmt.Sprintf("suite-%d-%d", os.Getpid(), atomic.AddUint64(&count, 1))
}

func dial() (*containerd.Client, error) {
	return containerd.New(os.Getenv("CONTAINERD_ADDRESS"))
}

func newContent(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
	client, err := dial()
	if err != nil {
		return nil, nil, nil, err
	}
	wrap := func(ctx context.Context) (context.Context, func(context.Context) error, error) {
		return namespaces.WithNamespace(ctx, namespace()), func(context.Context) error { return nil }, nil
	}
	ctx = contentsuite.SetContextWrapper(namespaces.WithNamespace(ctx, namespace()), wrap)
	return ctx, client.ContentStore(), client.Close, nil
}

func TestContent(t *testing.T) {
	contentsuite.ContentSuite(t, "client", newContent)
}

func TestContentShared(t *testing.T) {
	contentsuite.ContentCrossNSSharedSuite(t, "client", newContent)
}

func TestSnapshots(t *testing.T) {
	for _, name := range []string{"overlayfs", "native"} {
		t.Run(name, func(t *testing.T) {
			open := func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
				client, err := dial()
				if err != nil {
					return nil, nil, err
				}
				return &within{client.SnapshotService(name), namespace()}, client.Close, nil
			}
			snapshotsuite.SnapshotterSuite(t, name, open)
		})
	}
}

// A snapshotter whose calls are all in one namespace, whatever the suite says.
type within struct {
	snapshots.Snapshotter
	namespace string
}

func (w *within) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, w.namespace)
}

func (w *within) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return w.Snapshotter.Stat(w.in(ctx), key)
}

func (w *within) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	return w.Snapshotter.Update(w.in(ctx), info, paths...)
}

func (w *within) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return w.Snapshotter.Usage(w.in(ctx), key)
}

func (w *within) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return w.Snapshotter.Mounts(w.in(ctx), key)
}

func (w *within) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return w.Snapshotter.Prepare(w.in(ctx), key, parent, opts...)
}

func (w *within) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return w.Snapshotter.View(w.in(ctx), key, parent, opts...)
}

func (w *within) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return w.Snapshotter.Commit(w.in(ctx), name, key, opts...)
}

func (w *within) Remove(ctx context.Context, key string) error {
	return w.Snapshotter.Remove(w.in(ctx), key)
}

func (w *within) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return w.Snapshotter.Walk(w.in(ctx), fn, filters...)
}
