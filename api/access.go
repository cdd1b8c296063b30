package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

// rule says who may call an operation. An operation without a rule is the operator's alone.
type rule struct {
	role accounts.Role
	// at are the places that the request is about; nil: the whole cluster.
	at func(huma.Context) ([]accounts.Place, error)
	// part: who has a part of the place may call, and is told of that part.
	part bool
	// open: nobody has to say who he is.
	open bool
}

// inCluster is for those who have the whole cluster, anywhere for those who have any part of it: the handler looks further.
func inCluster(role accounts.Role) rule { return rule{role: role} }

func anywhere(role accounts.Role) rule { return rule{role: role, part: true} }

// inWorkspace is for those who have all of the workspace.
func inWorkspace(role accounts.Role) rule {
	return rule{role: role, at: func(c huma.Context) ([]accounts.Place, error) {
		return []accounts.Place{{Workspace: c.Param("workspace")}}, nil
	}}
}

// inFileSystem is for those who have all of the file system, seeing for those who have a part of it.
func inFileSystem(role accounts.Role) rule {
	return rule{role: role, at: func(c huma.Context) ([]accounts.Place, error) {
		return []accounts.Place{fileSystemAt(c)}, nil
	}}
}

func seeing(r rule) rule {
	r.part = true
	return r
}

func fileSystemAt(c huma.Context) accounts.Place {
	name := c.Param("filesystem")
	if name == "" {
		name = c.Param("name")
	}
	return accounts.Place{Workspace: c.Param("workspace"), FileSystem: name}
}

// atPath is for those who have the path in the query.
func atPath(role accounts.Role) rule {
	return rule{role: role, at: func(c huma.Context) ([]accounts.Place, error) {
		p, err := files.ParsePath(c.Query("path"))
		if err != nil {
			return nil, err
		}
		at := fileSystemAt(c)
		at.Path = string(p)
		return []accounts.Place{at}, nil
	}}
}

// entryAt is for those who have the directories of the named paths: what is done changes those.
func entryAt(role accounts.Role, params ...string) rule {
	return rule{role: role, at: func(c huma.Context) (places []accounts.Place, err error) {
		for _, name := range params {
			p, err := files.ParsePath(c.Query(name))
			if err != nil {
				return nil, err
			}
			dir, _ := p.Split()
			at := fileSystemAt(c)
			at.Path = string(dir)
			places = append(places, at)
		}
		return places, nil
	}}
}

// caller is what is known of who calls, in the context of a request.
type caller struct {
	from   netip.Addr // not of the operator
	err    error      // why he is nobody
	secure bool       // over TLS
	host   string     // that he called
	answer *answer
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	x, _ := ctx.Value(callerKey{}).(caller)
	return x
}

// answer notes the status of what is answered.
type answer struct {
	http.ResponseWriter
	status int
	// For the audit log.
	detail  string // what of the body may be told
	path    string // that it is about, if that of the query is not it
	changed bool   // by an operation that only looks
}

func (w *answer) WriteHeader(status int) {
	w.begins(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(b []byte) (int, error) {
	w.begins(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// begins notes the status. However long the answer was waited for, from now on there is a minute to take it.
func (w *answer) begins(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(patienceWithPeer))
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// guard lets a call pass if its rule does. Every operation goes through it.
func (a *API) guard(c huma.Context, next func(huma.Context)) {
	op := c.Operation()
	who := accounts.Of(c.Context())
	u := c.URL()
	err := oneReading(u.RawQuery)
	if err == nil {
		err = a.allowed(c, op.OperationID, who)
	}
	if err != nil {
		p := problem(err)
		a.note(c, who, p.Kind, p.Status)
		writeProblem(c, p)
		return
	}
	next(c)
	w := callerOf(c.Context()).answer
	if m := c.Method(); (m == http.MethodGet || m == http.MethodHead || m == http.MethodOptions) && (w == nil || !w.changed) {
		return
	}
	status := http.StatusOK
	if w != nil {
		status = cmp.Or(w.status, status)
	}
	outcome := "ok"
	if status >= http.StatusBadRequest {
		outcome = "refused"
	}
	a.note(c, who, outcome, status)
}

// oneReading refuses a query that parsers read differently. Rules and most operations read it by huma's parser, which is lenient, raw operations by net/url,
// which passes over pairs that are not well-formed: of "path=/mine;&path=/theirs" the one sees the first path, the other the second. Of a query that net/url takes whole
// both find the same path.
func oneReading(query string) error {
	if _, err := url.ParseQuery(query); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "query", "%w: percent-encode names and values", err)
	}
	return nil
}

func (a *API) allowed(c huma.Context, id string, who *accounts.Principal) error {
	const op = "access"
	r, known := a.rules[id]
	switch {
	case known && r.open:
		return nil
	case callerOf(c.Context()).err != nil:
		return callerOf(c.Context()).err
	case who.Token == "" && who.Everywhere() && who.Role == accounts.Admin:
		return nil // the operator
	case !known:
		return vfs.Errorf(vfs.KindPerm, op, "%s is done on the cluster's machines only, by the socket of a data directory", id)
	}
	may := who.May
	if r.part {
		may = who.MaySee
	}
	places := []accounts.Place{{}}
	if r.at != nil {
		var err error
		if places, err = r.at(c); err != nil {
			return err
		}
	}
	for _, p := range places {
		if err := may(r.role, p); err != nil {
			return err
		}
	}
	return nil
}

// note writes a change, or a refusal, into the audit log. Who is nobody cannot fill it; that he logged in is no line of his, for he has a token.
func (a *API) note(c huma.Context, who *accounts.Principal, outcome string, status int) {
	by := callerOf(c.Context())
	e := accounts.Event{Time: a.opt.Now().UTC(), Who: who.Name, Token: who.Token, Did: c.Operation().OperationID, To: about(c), Outcome: outcome, Status: status, Request: vfs.RequestOf(c.Context()).String()}
	if w := by.answer; w != nil && w.detail != "" {
		e.To += " " + w.detail
	}
	if by.from.IsValid() {
		e.From = by.from.String()
	}
	if by.err != nil && (e.Did != "log-in" || outcome != "ok") {
		a.opt.Audit.NoteStranger(e)
		return
	}
	a.opt.Audit.Note(e)
}

// about is what a request names: its path, and the paths in its query, or that of the upload which it is about. Bodies may hold secrets.
func about(c huma.Context) string {
	const longest = 1024
	u := c.URL()
	s := strings.TrimPrefix(u.EscapedPath(), prefix)
	for _, name := range []string{"path", "to"} {
		v := u.Query().Get(name)
		if w := callerOf(c.Context()).answer; w != nil && name == "path" {
			v = cmp.Or(w.path, v)
		}
		if v != "" {
			s += " " + name + "=" + strconv.QuoteToASCII(v)
		}
	}
	return s[:min(len(s), longest)]
}

func writeProblem(c huma.Context, p *Problem) {
	for k, v := range p.header {
		c.SetHeader(k, v[0])
	}
	c.SetHeader("Content-Type", p.ContentType(""))
	c.SetStatus(p.Status)
	_ = json.NewEncoder(c.BodyWriter()).Encode(p) // who went away needs no answer
}

// statusError is an error with an HTTP status of its own.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func problem(err error) *Problem {
	k := vfs.KindOf(err)
	p := &Problem{Status: k.HTTPStatus(), Kind: k.String(), Detail: err.Error()}
	var own *statusError
	var wait *accounts.TooManyFailures
	switch {
	case errors.As(err, &own):
		p.Status = own.status
		if own.status == http.StatusTooManyRequests {
			p.header = http.Header{"Retry-After": {transferAgain}}
		}
	case errors.As(err, &wait):
		p.Status, p.Kind = http.StatusTooManyRequests, vfs.KindUnavailable.String()
		p.header = http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(wait.Wait.Seconds())))}}
	case k == vfs.KindUnauthorized:
		p.header = http.Header{"WWW-Authenticate": {`Bearer realm="rackfs"`}}
	}
	return p
}
