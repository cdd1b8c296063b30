package v4

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// A COMPOUND of a client that another server serves, which lives, is carried there as it is, and that server's answer is the client's (decision 78). Its slots are there and nowhere else, so a
// request is done once whichever server it came to. Nothing is begun here while it is not known to be over there: a server that
// says nothing is asked whether it lives, and the client is taken over when its right to serve it has ended, as for a client that comes anew. Then the request is done here as one
// that was sent again. A request that was carried is not carried further.

const (
	// maxCarried bounds the requests that are carried at a time, with those whose large answers are yet to be sent.
	maxCarried = 256
	// carriedPatience is how long an answer is waited for before there is doubt, and the server is asked whether it lives. A request mostly takes longer without anything being wrong: a client is
	// looked for, which costs a command, when the server has said nothing to that either for doubtSilence, then each doubtAgain; and each doubtPause while it lives.
	carriedPatience = 250 * time.Millisecond
	doubtSilence    = 250 * time.Millisecond
	doubtAgain      = 500 * time.Millisecond
	doubtPause      = time.Second
	// maxRoutes bounds the sessions of which it is remembered where they are served.
	maxRoutes = 16 << 10
	// copiedAnswer is the size up to which an answer is copied, in bytes: it holds nothing until it is sent then.
	copiedAnswer = 16 << 10
)

// Peers are the other servers of the same clients.
type Peers interface {
	// Serving is the server that serves a client, if it takes requests from others; "" if none is known.
	Serving(ctx context.Context, id state.ClientID) (server string, err error)
	// Carry has a server carry out a COMPOUND that came here. After an error it may have been carried out or not. req.Body and req.Cred are not used
	// after it returns.
	Carry(ctx context.Context, server string, req *rpc.Request) (Carried, error)
	// Reaches reports whether a server answers.
	Reaches(ctx context.Context, server string) bool
	// Closed: a connection by which something may have been carried is closed.
	Closed(conn *rpc.Conn)
}

// Carried is what became of a request at another server.
type Carried struct {
	Outcome rpc.CarriedOutcome
	Results []byte
	Release func() // gives back Results, may be nil
}

// carrying is what is carried to others.
type carrying struct {
	slots chan struct{}

	mu     sync.Mutex // guards routes
	routes map[state.SessionID]route
}

// route is where a session is served. It is a hint: a server that does not serve it says so.
type route struct {
	client state.ClientID
	server string
}

func (s *carrying) init() {
	s.slots = make(chan struct{}, maxCarried)
	s.routes = make(map[state.SessionID]route)
}

func (s *carrying) route(id state.SessionID) (route, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.routes[id]
	return r, ok
}

func (s *carrying) learn(id state.SessionID, r route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.routes) >= maxRoutes {
		for other := range s.routes { // any one: it is found again
			delete(s.routes, other)
			break
		}
	}
	s.routes[id] = r
}

// forget drops a route that was wrong, unless there is another one by now.
func (s *carrying) forget(id state.SessionID, r route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes[id] == r {
		delete(s.routes, id)
	}
}

// Statuses that are no answers.
const (
	// stCarried: another server has answered the COMPOUND, compound.carried is its answer.
	stCarried status = -1 - iota
	// stElsewhere: this request was carried here, and this server does not answer it.
	stElsewhere
	// stGone: the request's client is not served here any more, so nobody can tell here what became of it.
	stGone
	// stSilent: nothing is answered, and nothing was done. The connection ends, so the client sends the request again by another one.
	stSilent
)

// whereabouts is where a client is that is not known here.
type whereabouts struct {
	found bool // here, now
	route route
}

// anyServer as the server that has failed a request: it is not to be carried to any.
const anyServer = "\x00"

// look looks for a client that is not known here and takes it over, or tells which other server serves it, unless that is the one that has failed this request: then it is waited for.
func (s *Server) look(ctx context.Context, id state.ClientID, failed string) (w whereabouts, err error) {
	if failed == anyServer {
		w.found, err = s.await(ctx, id)
		return w, err
	}
	s.turns.yield(ctx, id)
	w.found, err = s.take(ctx, id)
	if vfs.KindOf(err) != vfs.KindBusy {
		return w, err
	}
	if server, perr := s.cfg.Peers.Serving(ctx, id); perr == nil && server != "" && server != failed {
		w.route = route{id, server}
		return w, nil
	}
	w.found, err = s.await(ctx, id)
	return w, err
}

// lookForClient is look, which requests share.
func (s *Server) lookForClient(ctx context.Context, id state.ClientID, failed string) (whereabouts, error) {
	return s.sharedLook(ctx, failed+"/"+clientKey(id), func() (whereabouts, error) { return s.look(ctx, id, failed) })
}

// lookFor is lookForClient of the client of a session.
func (s *Server) lookFor(ctx context.Context, id state.SessionID, failed string) (whereabouts, error) {
	if r, ok := s.carrying.route(id); ok && failed != anyServer && r.server != failed {
		return whereabouts{route: r}, nil
	}
	w, err := s.sharedLook(ctx, failed+"/"+string(id[:]), func() (w whereabouts, err error) {
		client, err := s.sessions.ClientOf(ctx, id)
		if vfs.KindOf(err) == vfs.KindNotFound {
			return w, nil
		}
		if err != nil {
			return w, vfs.Wrap("nfs.takeover", err)
		}
		return s.look(ctx, client, failed)
	})
	if w.route.server != "" {
		s.carrying.learn(id, w.route)
	}
	return w, err
}

// Why the wait for an answer ends.
var (
	errTaken     = errors.New("the client is served here now")
	errUnreached = errors.New("the server does not answer")
)

// carry has another server answer the COMPOUND. False: it does not, or has not said.
func (c *compound) carry(r route) bool {
	s := c.s
	select {
	case s.carrying.slots <- struct{}{}:
	default:
		select {
		case s.carrying.slots <- struct{}{}:
		case <-c.req.Conn.ReadDone(): // it is sent again by another one
			return false
		case <-c.base.Done():
			return false
		}
	}
	free := func() { <-s.carrying.slots }
	ctx, cancel := context.WithCancelCause(c.base)
	doubted := make(chan struct{})
	timer := time.AfterFunc(carriedPatience, func() {
		defer close(doubted)
		s.doubt(ctx, r, cancel)
	})
	got, err := s.cfg.Peers.Carry(ctx, r.server, c.req)
	cancel(nil)
	if !timer.Stop() {
		<-doubted
	}
	release := func() {
		if got.Release != nil {
			got.Release()
		}
		free()
	}
	if err != nil || got.Outcome == rpc.CarriedElsewhere {
		release()
		if err != nil && !errors.Is(context.Cause(ctx), errTaken) {
			c.log().Debug("nfs: a request could not be carried to the server of its client", "server", r.server, "client", r.client, "err", err)
		}
		return false
	}
	c.carried = &carriedAnswer{garbage: got.Outcome == rpc.CarriedGarbage, results: got.Results, release: release}
	return true
}

// carriedAnswer is another server's answer to the COMPOUND.
type carriedAnswer struct {
	garbage bool
	results []byte
	release func()
}

// put makes it the answer of req.
func (a *carriedAnswer) put(req *rpc.Request) {
	req.Reply.Truncate(req.Reply.Start())
	switch {
	case a.garbage:
		req.GarbageArgs()
		a.release()
	case len(a.results) <= copiedAnswer:
		req.Reply.B = append(req.Reply.B, a.results...)
		a.release()
	default:
		req.Reply.Attach(a.results, a.release)
	}
}

// doubt looks, until ctx ends, whether the server that has a request still serves its client, and answers at all; else it cancels the wait for its answer.
func (s *Server) doubt(ctx context.Context, r route, cancel context.CancelCauseFunc) {
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		lives := make(chan bool, 1)
		asking.Go(func() { lives <- s.cfg.Peers.Reaches(ctx, r.server) })
		answered := false
		for look := doubtSilence; !answered; look = doubtAgain {
			select {
			case answered = <-lives:
				if !answered {
					cancel(errUnreached)
					return
				}
			case <-time.After(look):
				if s.goesOver(ctx, r, cancel) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(doubtPause):
		case <-ctx.Done():
			return
		}
		if s.goesOver(ctx, r, cancel) {
			return
		}
	}
}

// goesOver takes the client of a request that another server has, if that has lost it, and cancels the wait for its answer then. It is not wished for: a request may take its time.
func (s *Server) goesOver(ctx context.Context, r route, cancel context.CancelCauseFunc) bool {
	w, err := s.sharedLook(ctx, "doubt "+clientKey(r.client), func() (w whereabouts, err error) {
		w.found, err = s.take(ctx, r.client)
		return w, err
	})
	if err != nil || !w.found {
		return false
	}
	cancel(errTaken)
	return true
}

// ofOther answers for a client that is not known here, which would be st: another server has answered (stCarried), or the client is here now (NFS4_OK), else st, or why it cannot be
// found. look looks for it.
func (c *compound) ofOther(st status, look func(ctx context.Context, failed string) (whereabouts, error)) status {
	if c.s.sessions == nil {
		return st
	}
	failed := ""
	switch {
	case c.index > 0 || c.s.cfg.Peers == nil: // a COMPOUND goes as a whole, or not at all
		failed = anyServer
	case c.req.Conn.Via() != "":
		return stElsewhere
	}
	ctx, over := c.patient()
	defer over()
	for began := time.Now(); ; {
		w, err := look(ctx, failed)
		if c.hungUp() {
			return c.unheard()
		}
		if err != nil || w.route.server == "" {
			return c.took(w.found, err, st)
		}
		if c.carry(w.route) {
			return stCarried
		}
		failed = w.route.server
		if time.Since(began) > busyWait {
			return nfsv4.NFS4ERR_DELAY // to what has no SEQUENCE: Linux comes again after a second
		}
	}
}

// hungUp reports whether the connection has ended, or this server ends: a request that has waited is not begun then, for its client sends it again by another one (RFC 8881, 2.10.6.2), perhaps has
// done so and gone on.
func (c *compound) hungUp() bool {
	select {
	case <-c.req.Conn.ReadDone():
		return true
	case <-c.base.Done():
		return true
	default:
		return false
	}
}

// unheard is the outcome of a request that has hung up while it waited. Of a connection that is not read any more answers are still sent, as long as its other side takes them, also by a server that
// ends; NFS4ERR_DELAY there would have a Linux client stand still for 15 s that goes on at once when the connection ends.
func (c *compound) unheard() status {
	if c.call != nil { // that is to be finished
		return nfsv4.NFS4ERR_DELAY
	}
	return stSilent
}

// silent has nothing answered.
func (c *compound) silent() {
	if c.req.Conn.Via() != "" { // who has the connection goes on
		c.req.Elsewhere()
		return
	}
	c.req.NoReply()
	if !c.hungUp() { // else it ends by itself, after what others that came by it are answered
		c.req.Conn.Close()
	}
}

// patient is the context of a wait in place of this request: it ends with its connection, so that a server that ends is not held up by what will not be begun.
func (c *compound) patient() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	gone := c.req.Conn.ReadDone()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// giveTo gives a client up to the server that carries its request, as long as it still follows; that one finds out. False: it stays here.
func (c *compound) giveTo(id state.ClientID, follows func() bool) bool {
	_, err, _ := c.s.finding.Do("give "+clientKey(id), func() (any, error) {
		if !follows() { // another request was faster
			return nil, nil
		}
		return nil, c.s.GiveUp(c.base, id)
	})
	if err != nil && vfs.KindOf(err) != vfs.KindUnknown {
		c.s.cfg.State.Remains(id)
		c.log().Info("nfs: a client whose requests come by another server could not be given up to it", "client", id, "server", c.req.Conn.Via(), "err", err)
		return false
	}
	return true
}

// decided reports whether st is no answer of an operation.
func decided(st status) bool { return st < 0 }
