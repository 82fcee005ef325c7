package main

import (
	"sort"
	"strings"

	"github.com/containerd/containerd/leases"
)

// daemon asks what clients that start a daemon wait for.
func (f *flow) daemon() {
	serving, err := f.client.IsServing(f.ctx)
	must("ask whether it serves", err)
	f.say("serving: %v", serving)
	version, err := f.client.Version(f.ctx)
	must("ask for the version", err)
	f.say("version: %v", version.Version != "")
	server, err := f.client.Server(f.ctx)
	must("ask for the server", err)
	f.say("uuid: %v", len(server.UUID) == 36)

	plugins, err := f.client.IntrospectionService().Plugins(f.ctx, []string{})
	must("list plugins", err)
	kinds := map[string]bool{}
	for _, plugin := range plugins.Plugins {
		if plugin.InitErr == nil {
			kinds[plugin.Type+" "+plugin.ID] = true
		} else if !strings.Contains(plugin.InitErr.Message, "skip plugin") && plugin.ID != "devmapper" {
			// containerd's devmapper is in error until it is configured.
			f.say("plugin %s.%s: %s", plugin.Type, plugin.ID, plugin.InitErr.Message)
		}
	}
	for _, wanted := range []string{
		"io.containerd.content.v1 content", "io.containerd.snapshotter.v1 overlayfs",
		"io.containerd.snapshotter.v1 native", "io.containerd.differ.v1 walking",
		"io.containerd.gc.v1 scheduler", "io.containerd.runtime.v2 task", "io.containerd.grpc.v1 tasks",
		"io.containerd.grpc.v1 events", "io.containerd.grpc.v1 healthcheck", "io.containerd.grpc.v1 version",
	} {
		f.say("plugin %s: %v", wanted, kinds[wanted])
	}
	platforms, err := f.client.GetSnapshotterSupportedPlatforms(f.ctx, "overlayfs")
	must("ask for the snapshotter's platforms", err)
	f.say("platforms of overlayfs: %v", platforms != nil)

	names := f.client.NamespaceService()
	must("create the namespace", names.Create(f.ctx, f.namespace, map[string]string{"made": "here"}))
	must("label the namespace", names.SetLabel(f.ctx, f.namespace, "step", "one"))
	must("unlabel the namespace", names.SetLabel(f.ctx, f.namespace, "made", ""))
	labels, err := names.Labels(f.ctx, f.namespace)
	must("read the namespace", err)
	f.say("namespace: %v", labels)
	f.refused("create it again", names.Create(f.ctx, f.namespace, nil))
}

// leases makes one, uses it and looks at what it holds.
func (f *flow) leases() {
	manager := f.client.LeasesService()
	lease, err := manager.Create(f.ctx, leases.WithID("held"), leases.WithLabels(map[string]string{"of": "flow"}))
	must("create a lease", err)
	_, err = manager.Create(f.ctx, leases.WithID("held"))
	f.refused("create it again", err)
	snapshotter := f.client.SnapshotService("overlayfs")
	_, err = snapshotter.Prepare(leases.WithLease(f.ctx, lease.ID), garbage, "")
	must("prepare a snapshot with a lease", err)
	must("add to a lease", manager.AddResource(f.ctx, lease, leases.Resource{ID: "sha256:" + strings.Repeat("a", 64), Type: "content"}))
	resources, err := manager.ListResources(f.ctx, lease)
	must("list a lease's resources", err)
	sort.Slice(resources, func(i, j int) bool { return resources[i].Type < resources[j].Type })
	f.say("lease %s %v holds %v", lease.ID, lease.Labels, resources)
	must("take from a lease", manager.DeleteResource(f.ctx, lease, resources[0]))
	found, err := manager.List(f.ctx, `labels.of==flow`)
	must("list leases", err)
	f.say("leases of flow: %d", len(found))
	must("delete a lease", manager.Delete(f.ctx, lease, leases.SynchronousDelete))
	_, err = snapshotter.Stat(f.ctx, garbage)
	f.refused("find what it held", err)
	_, err = snapshotter.Prepare(leases.WithLease(f.ctx, "unknown"), "never", "")
	f.refused("use an unknown lease", err)
	f.refused("delete it again", manager.Delete(f.ctx, lease))
}
