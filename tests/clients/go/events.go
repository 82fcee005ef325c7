package main

import (
	"fmt"
	"sort"
	"strings"
	"sync"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/events"
	"github.com/containerd/typeurl"
)

// seen is what a subscription told, by object.
type seen struct {
	flow   *flow
	mutex  sync.Mutex
	events map[string][]string
}

// subscribe listens to every event of the namespace from now on.
func (f *flow) subscribe() *seen {
	seen := &seen{flow: f, events: map[string][]string{}}
	f.listen(seen.take, fmt.Sprintf("namespace==%q", f.namespace))
	return seen
}

// listen hands on what comes from now on. A subscription is not answered before its first event, so one is published
// until it is heard.
func (f *flow) listen(take func(*events.Envelope), filters ...string) {
	envelopes, errs := f.client.Subscribe(f.ctx, append(filters, `topic=="/flow/ready"`)...)
	go func() {
		// Its end is the daemon's, unless it never began.
		if err := <-errs; err != nil && kind(err) != away {
			must("subscribe", err)
		}
	}()
	ready := make(chan struct{}, 1)
	go func() {
		for envelope := range envelopes {
			if envelope.Topic != "/flow/ready" {
				take(envelope)
				continue
			}
			select {
			case ready <- struct{}{}:
			default:
			}
		}
	}()
	f.eventually("the subscription", func() bool {
		must("publish an event", f.client.EventService().Publish(f.ctx, "/flow/ready", &apievents.ContainerDelete{ID: "ready"}))
		select {
		case <-ready:
			return true
		default:
			return false
		}
	})
}

// exitOf hears of the end of a container's first process.
func (f *flow) exitOf(id string) <-chan uint32 {
	exits := make(chan uint32, 1)
	f.listen(func(envelope *events.Envelope) {
		value, err := typeurl.UnmarshalAny(envelope.Event)
		must("decode the event of "+envelope.Topic, err)
		if exit, ok := value.(*apievents.TaskExit); ok && exit.ID == id {
			exits <- exit.ExitStatus
		}
	}, fmt.Sprintf(`topic=="/tasks/exit",namespace==%q`, f.namespace))
	return exits
}

// take keeps one event, without what is the daemon's own choice.
func (s *seen) take(envelope *events.Envelope) {
	value, err := typeurl.UnmarshalAny(envelope.Event)
	must("decode the event of "+envelope.Topic, err)
	object, told := describe(value)
	if object == "" {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.events[object] = append(s.events[object], envelope.Topic+" "+told)
}

// garbage is the snapshot that nothing but a lease keeps. Of what was collected, wharf tells as later releases of
// containerd do, and 1.6 does not; which blobs are, and when, is theirs to say.
const garbage = "leased"

// describe names the object that an event is about, and spells what is told of it; no object if it is of no interest.
func describe(value interface{}) (object, told string) {
	switch e := value.(type) {
	case *apievents.ContainerCreate:
		return "container " + e.ID, fmt.Sprintf("runtime=%s image=%s", e.Runtime.Name, e.Image)
	case *apievents.ContainerUpdate:
		return "container " + e.ID, fmt.Sprintf("labels=%v", e.Labels["step"])
	case *apievents.ContainerDelete:
		return "container " + e.ID, ""
	case *apievents.TaskCreate:
		return "task " + e.ContainerID, fmt.Sprintf("terminal=%v mounts=%d", e.IO.Terminal, len(e.Rootfs))
	case *apievents.TaskStart:
		return "task " + e.ContainerID, ""
	case *apievents.TaskExit:
		return "task " + e.ContainerID, fmt.Sprintf("id=%s status=%d at=%v", e.ID, e.ExitStatus, !e.ExitedAt.IsZero())
	case *apievents.TaskDelete:
		return "task " + e.ContainerID, fmt.Sprintf("id=%s status=%d", e.ID, e.ExitStatus)
	case *apievents.TaskExecAdded:
		return "task " + e.ContainerID, "exec=" + e.ExecID
	case *apievents.TaskExecStarted:
		return "task " + e.ContainerID, "exec=" + e.ExecID
	case *apievents.TaskPaused:
		return "task " + e.ContainerID, ""
	case *apievents.TaskResumed:
		return "task " + e.ContainerID, ""
	case *apievents.TaskOOM:
		return "task " + e.ContainerID, ""
	case *apievents.ImageCreate:
		return "image " + e.Name, fmt.Sprintf("labels=%v", e.Labels)
	case *apievents.ImageUpdate:
		return "image " + e.Name, fmt.Sprintf("labels=%v", e.Labels)
	case *apievents.ImageDelete:
		return "image " + e.Name, ""
	case *apievents.NamespaceCreate:
		return "namespace", "create"
	case *apievents.NamespaceUpdate:
		return "namespace", "update"
	case *apievents.SnapshotPrepare:
		return "snapshots", "prepare " + plain(e.Key) + " on " + e.Parent
	case *apievents.SnapshotCommit:
		return "snapshots", "commit " + plain(e.Key) + " as " + e.Name
	case *apievents.SnapshotRemove:
		if e.Key == garbage {
			return "", ""
		}
		return "snapshots", "remove " + plain(e.Key)
	case *apievents.ContentDelete:
		return "", ""
	}
	return "others", fmt.Sprintf("%T", value)
}

// plain takes the random part out of a key that an unpack works with.
func plain(key string) string {
	if strings.HasPrefix(key, "extract-") {
		return "extract-RANDOM" + key[strings.Index(key, " "):]
	}
	return key
}

// print tells all that came, each object's in order, once the last of it is there.
func (s *seen) print() {
	last := "/containers/delete "
	s.flow.eventually("the last event", func() bool {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		of := s.events["container terminal"]
		return len(of) > 0 && of[len(of)-1] == last
	})
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var objects []string
	for object := range s.events {
		objects = append(objects, object)
	}
	sort.Strings(objects)
	for _, object := range objects {
		for _, told := range s.events[object] {
			s.flow.say("event %s: %s", object, told)
		}
	}
}
