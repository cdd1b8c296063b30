package bench

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

// Spec says how to reach a target and what is known about it.
type Spec struct {
	// Name and Place are of what was written: [NAME=]KIND:PLACE. Kinds:
	//
	//	dir:PATH                            a directory of any file system
	//	dir-sync:PATH                       the same with an fsync of the directory after each change of names
	//	nfs:HOST:PORT/EXPORT[/DIR]          an export, without a kernel
	//	api:https://HOST:PORT/WORKSPACE/FS  the storage API of a gateway
	//	dev:PATH                            a cluster of its own in a directory, by NFS
	//	dev-api:PATH                        the same by the storage API
	Name, Kind, Place string

	Durability *Durability // declared; nil: look
	Metrics    []string    // addresses of metrics of its processes
	PIDs       []int       // its processes on this machine
	ClientPIDs []int       // those that work for its client, such as the daemon of a FUSE mount
	Sessions   int         // of NFS
	Token, CA  string      // of the API
	DevFlags   []string    // more flags of `rackfs dev`
	Binary     string      // of `rackfs`, for dev
}

var kinds = []string{"dir", "dir-sync", "nfs", "api", "dev", "dev-api"}

// ParseSpec reads [NAME=]KIND:PLACE.
func ParseSpec(s string) (Spec, error) {
	var out Spec
	rest := s
	if name, after, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(name, ":/") {
		out.Name, rest = name, after
	}
	kind, place, ok := strings.Cut(rest, ":")
	out.Kind, out.Place = kind, place
	for _, k := range kinds {
		if k == kind && ok && place != "" {
			if out.Name == "" {
				out.Name = kind
			}
			return out, nil
		}
	}
	return out, vfs.Errorf(vfs.KindInvalid, "bench.target", "%q: write [NAME=]KIND:PLACE with one of the kinds %v", s, kinds)
}

// Open reaches the target; the caller calls close at the end.
func (s *Spec) Open(ctx context.Context) (t *Target, close func(context.Context) error, err error) {
	t = &Target{Name: s.Name, Spec: s.Kind + ":" + s.Place}
	var d Durability
	var meters Meters
	metrics := s.Metrics
	stop := func(context.Context) error { return nil }
	switch s.Kind {
	case "dir", "dir-sync":
		t.FS, d, err = NewDir(s.Place, s.Kind == "dir-sync")
	case "nfs":
		var addr, path string
		if addr, path, err = parseNFS(s.Place); err == nil {
			t.FS, err = NewNFS(ctx, NFSConfig{Addr: addr, Path: path, Sessions: s.Sessions})
		}
	case "api":
		var u *url.URL
		if u, err = url.Parse(s.Place); err == nil {
			t.FS, err = NewAPI(api.Endpoint{URL: u.Scheme + "://" + u.Host, Token: s.Token, CA: s.CA}, u.Path)
		}
	case "dev", "dev-api":
		t.Spec += strings.Join(append([]string{""}, s.DevFlags...), " ")
		var dev *devCluster
		if dev, err = startDev(ctx, s.Binary, s.Place, s.DevFlags); err != nil {
			return nil, nil, err
		}
		stop, metrics = dev.stop, append(metrics, dev.metrics)
		if s.Kind == "dev" {
			t.FS, err = NewNFS(ctx, NFSConfig{Addr: dev.nfs, Path: devExport, Sessions: s.Sessions})
		} else {
			var token []byte
			if token, err = os.ReadFile(dev.tokenFile); err == nil {
				t.FS, err = NewAPI(api.Endpoint{URL: dev.api, Token: strings.TrimSpace(string(token))}, devFileSystem)
			}
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, stop(context.WithoutCancel(ctx)))
	}
	close = func(ctx context.Context) error {
		soon, cancel := context.WithTimeout(ctx, cleanTimeout) // a server that answers no more keeps nobody, nor a cluster of ours from ending
		defer cancel()
		return errors.Join(t.FS.Close(soon), stop(ctx))
	}
	for _, m := range metrics {
		meters = append(meters, Metrics{URL: m})
		if !d.Known() {
			d = statusDurability(ctx, m)
		}
	}
	for _, p := range s.PIDs {
		meters = append(meters, PID(p))
	}
	if len(meters) > 0 {
		t.CPU = meters
		if _, err := meters.Read(ctx); err != nil {
			return nil, nil, errors.Join(err, close(context.WithoutCancel(ctx)))
		}
	}
	var own Meters
	for _, p := range s.ClientPIDs {
		own = append(own, PID(p))
	}
	if len(own) > 0 {
		t.ClientCPU = own
	}
	if s.Durability != nil {
		d = *s.Durability
	}
	t.Durability = d
	return t, close, nil
}

// statusDurability asks the status beside metrics, which a cluster of rackfs serves, for the cluster's profile. Whoever answers
// anything else promises nothing.
func statusDurability(ctx context.Context, metrics string) Durability {
	u, err := url.Parse(metrics)
	if err != nil {
		return Durability{}
	}
	u.Path = "/status"
	body, err := get(ctx, u.String())
	if err != nil {
		return Durability{}
	}
	var status struct{ Cluster, Profile string }
	if json.Unmarshal(body, &status) != nil || status.Cluster == "" {
		return Durability{}
	}
	d, err := profileDurability(status.Profile)
	if err != nil {
		return Durability{}
	}
	return d
}
