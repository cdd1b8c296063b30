package localnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// rootMode is that of a new volume's root: workloads of any user make their own directories, and remove only those.
	rootMode = 0o1777
	// refreshInterval is how often addresses, and the list of file systems, are looked at.
	refreshInterval = time.Second
	// listTimeout bounds one question for the list.
	listTimeout = 5 * time.Second
)

// Config of a Server. The fields of the first group are required.
type Config struct {
	Dir     string   // local.dir
	Node    string   // name of the node
	Cluster [16]byte // id of the cluster

	Clients    []netip.Prefix                   // networks of the node's workloads, besides its own addresses
	Own        func() ([]netip.Addr, error)     // the node's addresses; nil: those of its interfaces
	Group      func() (name string, known bool) // node group that the node is in, if it is known by now
	List       func(ctx context.Context, known uint64) (*metapb.FileSystemsR, error)
	Interval   time.Duration // between looks at the list and the addresses, 1 s
	Squash     export.Squash // of root
	LazyNames  bool          // changes of names and attributes are durable some seconds after they were answered
	Lease      time.Duration // 30 s
	Release    string
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server serves a node's local volumes. It is safe for concurrent use.
type Server struct {
	cfg     Config
	files   vfile.FS
	log     *slog.Logger
	nfs     *nfsserver.Server
	refused refusals

	run  context.Context // ends with stop
	stop context.CancelFunc
	done sync.WaitGroup // what runs until then

	mu      sync.Mutex // guards the following
	saved   *saved
	open    map[uint32]*localssd.FS
	failed  map[uint32]error // why a volume is not open
	own     []netip.Addr
	version uint64 // of the list that is served
	group   string // that it was looked at for
}

// Start opens what was served last. The caller ends it with Stop.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	const op = "local volumes"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Own == nil {
		cfg.Own = interfaceAddrs
	}
	if cfg.Interval == 0 {
		cfg.Interval = refreshInterval
	}
	s := &Server{cfg: cfg, files: vfile.OS{}, log: cfg.Logger, open: map[uint32]*localssd.FS{}, failed: map[uint32]error{}}
	s.refused.init()
	if err := vfile.MkdirAllSync(s.files, cfg.Dir); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "local.dir: %w", err)
	}
	defer func() {
		if err != nil {
			s.closeVolumes()
		}
	}()
	if s.saved, err = loadState(s.files, cfg.Dir, cfg.Node, cfg.Cluster); err != nil {
		return nil, err
	}
	store, err := loadClients(s.files, cfg.Dir)
	if err != nil {
		return nil, err
	}
	if s.own, err = cfg.Own(); err != nil {
		return nil, vfs.Errorf(vfs.KindIO, op, "the node's addresses: %w", err)
	}
	s.openVolumes()
	name := cfg.Node + "/local" // clients must not take it for the gateway of the same node
	s.nfs, err = nfsserver.New(ctx, nfsserver.Config{
		Cluster: cfg.Cluster, Keys: []handle.Key{s.saved.key()}, Exports: s.exports(), Store: store, Boot: s.saved.Boot,
		Lease: cfg.Lease, Name: name, Release: cfg.Release, Logger: cfg.Logger, Registerer: cfg.Registerer,
	})
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	s.run, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.follow(s.run) })
	return s, nil
}

func interfaceAddrs() (out []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap().WithZone(""))
		}
	}
	return out, err
}

func volumeDir(dir string, fs uint32) string { return filepath.Join(dir, fmt.Sprintf("fs-%d", fs)) }

// openVolumes opens what is to be served and is not open yet. s.mu is held, or nobody else knows s.
func (s *Server) openVolumes() {
	for _, v := range s.saved.Volumes {
		if s.open[v.FS] != nil {
			continue
		}
		fs, err := localssd.Open(volumeDir(s.cfg.Dir, v.FS), localssd.Options{RootMode: rootMode, LazyNames: s.cfg.LazyNames, Logger: s.log})
		if err != nil {
			if s.failed[v.FS] == nil || s.failed[v.FS].Error() != err.Error() {
				s.log.Error("a local volume cannot be served", "fs", v.FS, "path", v.Path, "err", err)
			}
			s.failed[v.FS] = err
			continue
		}
		delete(s.failed, v.FS)
		s.open[v.FS] = fs
	}
}

// exports are those of the volumes that are open. s.mu is held.
func (s *Server) exports() []export.Export {
	var out []export.Export
	for _, v := range s.saved.Volumes {
		fs := s.open[v.FS]
		if fs == nil {
			continue
		}
		access := export.ReadWrite
		if v.ReadOnly {
			access = export.ReadOnly
		}
		out = append(out, export.Export{ID: v.FS, FSID: v.FS, Path: v.Path, FS: fs, Rules: s.rules(access)})
	}
	return out
}

// rules let the node's own workloads in. s.mu is held.
func (s *Server) rules(access export.Access) (rules []export.Rule) {
	for _, p := range s.networks() {
		rules = append(rules, export.Rule{Clients: p, Access: access, Squash: s.cfg.Squash, AnonUID: export.AnonID, AnonGID: export.AnonID})
	}
	return rules
}

// networks are where the node's own workloads are. s.mu is held.
func (s *Server) networks() []netip.Prefix {
	out := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, a := range s.own {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(out, s.cfg.Clients...)
}

// mayMount reports whether an address is that of one of the node's own workloads.
func (s *Server) mayMount(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(s.networks(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// Serve answers NFS clients on ln until Stop; then it returns nil.
func (s *Server) Serve(ln net.Listener) error { return s.nfs.Serve(&doorkeeper{ln, s}) }

// follow keeps what is served what it should be.
func (s *Server) follow(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.Refresh(ctx)
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				s.log.Warn("local volumes: the list of file systems cannot be read; what is served stays served", "err", err)
			}
		}
	}
}

// Refresh looks at addresses and list now.
func (s *Server) Refresh(ctx context.Context) error {
	s.readdress()
	if s.cfg.List == nil {
		return nil
	}
	group, known := s.cfg.Group()
	if !known {
		return nil
	}
	s.mu.Lock()
	version := s.version
	if group != s.group {
		version = 0
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list, err := s.cfg.List(ctx, version)
	if err != nil || list.GetUnchanged() {
		return err
	}
	return s.serve(list, group)
}

// ListFrom asks the metadata for the list.
func ListFrom(meta filesystem.Meta) func(ctx context.Context, known uint64) (*metapb.FileSystemsR, error) {
	return func(ctx context.Context, known uint64) (*metapb.FileSystemsR, error) {
		r, err := meta.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{KnownVersion: known}}})
		return r.GetFileSystems(), err
	}
}

// readdress exports again if the node's addresses changed, and opens volumes that could not be opened.
func (s *Server) readdress() {
	own, err := s.cfg.Own()
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := err == nil && !slices.Equal(own, s.own)
	if changed {
		s.own = own
	}
	if len(s.failed) > 0 {
		before := len(s.open)
		s.openVolumes()
		changed = changed || len(s.open) != before
	}
	if changed {
		s.publish()
	}
}

func (s *Server) publish() {
	if err := s.nfs.SetExports(s.exports()); err != nil {
		s.log.Error("local volumes: they cannot be exported together; those before stay exported", "err", err)
	}
}

// serve makes what a list names the volumes that are served, and remembers it first.
func (s *Server) serve(list *metapb.FileSystemsR, group string) error {
	var want []Volume
	for _, fs := range list.GetFileSystems() {
		if Serves(fs, group) {
			want = append(want, Volume{FS: fs.Id, Path: filesystem.Path(fs), ReadOnly: fs.ReadOnly})
		}
	}
	slices.SortFunc(want, func(a, b Volume) int { return int(int64(a.FS) - int64(b.FS)) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(want, s.saved.Volumes) {
		next := *s.saved
		next.Volumes = want
		if err := saveJSON(s.files, s.cfg.Dir, stateFile, &next); err != nil {
			return err
		}
		for _, v := range s.saved.Volumes {
			if !slices.ContainsFunc(want, func(w Volume) bool { return w.FS == v.FS }) {
				s.log.Info("a local volume is not served any more; its files stay", "fs", v.FS, "path", v.Path, "dir", volumeDir(s.cfg.Dir, v.FS))
				delete(s.failed, v.FS)
			}
		}
		s.saved = &next
		s.openVolumes()
		s.publish()
	}
	s.version, s.group = list.GetVersion(), group
	return nil
}

// Serves reports whether the nodes of a group serve a file system from their own disks.
func Serves(fs *metapb.FileSystem, group string) bool {
	return fs.Kind == filesystem.Local && fs.State == metapb.FileSystemState_FS_ACTIVE && group != "" && fs.Group == group
}

// State is what the node's volumes are now.
func (s *Server) State(ctx context.Context, at time.Time) []*metapb.LocalVolume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*metapb.LocalVolume
	for _, v := range s.saved.Volumes {
		l := &metapb.LocalVolume{Fs: v.FS, At: &metapb.Time{Sec: at.Unix(), Nsec: uint32(at.Nanosecond())}}
		out = append(out, l)
		fs := s.open[v.FS]
		if fs == nil {
			l.Problem = shorten(fmt.Sprint(s.failed[v.FS]))
			continue
		}
		st, err := fs.StatFS(ctx, vfs.RootIno)
		if err == nil {
			err = fs.Health()
		}
		l.Total, l.Free = st.TotalBytes, st.AvailBytes
		if err != nil {
			l.Problem = shorten(err.Error())
		}
	}
	return out
}

func shorten(s string) string {
	const most = 500
	if len(s) > most {
		return s[:most]
	}
	return s
}

// Volumes are what is served, by name.
func (s *Server) Volumes() []Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.saved.Volumes)
}

// Stop ends the server. When ctx ends first the rest is as after a crash: volumes stay open until the process ends, for calls that did not
// return hold descriptors of them, and their numbers must not become other files'.
func (s *Server) Stop(ctx context.Context) error {
	s.stop()
	s.done.Wait()
	if err := s.nfs.Shutdown(ctx); err != nil {
		return err
	}
	return s.closeVolumes()
}

func (s *Server) closeVolumes() (err error) {
	for _, fs := range s.open {
		err = errors.Join(err, fs.Stop())
	}
	return err
}
