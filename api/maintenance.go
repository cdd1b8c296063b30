package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Maintenance is what a meta node does besides answering: backups of the metadata, checks of the cluster.
type Maintenance interface {
	Backup(ctx context.Context, out io.Writer) error
	Check(ctx context.Context, progress func(clustercheck.Progress)) (*clustercheck.Report, error)
}

// Report is the result of a check of the cluster, Progress how far one is.
type (
	Report   = clustercheck.Report
	Progress = clustercheck.Progress
)

const (
	typeBackup = "application/x-rackfs-backup"
	typeLines  = "application/jsonlines"
	// patience is how long whoever reads a stream may take nothing of it.
	patience = time.Minute
	// trailerError names the trailer in which a backup that failed says why; one without it, or cut off, is no backup either: it has no end.
	trailerError = "Rackfs-Error"
	// progressEvery bounds how often progress is told.
	progressEvery = 200 * time.Millisecond
)

// CheckEvent is a line of the answer to a check: progress, and in the last line the report or why there is none.
type CheckEvent struct {
	Progress *Progress `json:"progress,omitempty"`
	Report   *Report   `json:"report,omitempty"`
	Error    *Problem  `json:"error,omitempty"`
}

func (a *API) maintenance() {
	stream(a, "POST /cluster/backup", "backup-cluster", "Stream a backup of the metadata; the file format is that of package internal/backup", typeBackup, a.backup)
	stream(a, "POST /cluster/check", "check-cluster", "Check every invariant of the cluster: lines of JSON (CheckEvent), the last one is the report", typeLines, a.check)
	handle(a, "POST /cluster/allow-deletion", "allow-deletion", "Let block stores delete what restored metadata does not know", a.allowDeletion)
}

// stream registers an operation whose answer is a stream.
func stream(a *API, route, id, summary, contentType string, fn func(context.Context, *streamWriter)) {
	method, path, _ := strings.Cut(route, " ")
	huma.Register(a.huma, huma.Operation{
		Method: method, Path: prefix + path, OperationID: id, Summary: summary, DefaultStatus: http.StatusOK,
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}},
	}, func(context.Context, *struct{}) (*huma.StreamResponse, error) {
		if a.opt.Maintenance == nil {
			return nil, problem(vfs.Errorf(vfs.KindNotSupported, id, "this node has no replica of the metadata: ask a node with the role meta"))
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			_, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Trailer", trailerError)
			s := &streamWriter{w: w, rc: http.NewResponseController(w)}
			_ = s.rc.SetWriteDeadline(time.Time{})
			fn(hc.Context(), s)
		}}, nil
	})
}

// streamWriter writes an answer for as long as somebody takes it.
type streamWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (s *streamWriter) Write(p []byte) (int, error) {
	_ = s.rc.SetWriteDeadline(time.Now().Add(patience))
	n, err := s.w.Write(p)
	if err != nil {
		err = vfs.Errorf(vfs.KindCanceled, "api", "whoever asked does not read the answer: %w", err)
	}
	return n, err
}

func (a *API) backup(ctx context.Context, s *streamWriter) {
	err := a.opt.Maintenance.Backup(ctx, s)
	if err == nil {
		a.logAbout(ctx, slog.LevelInfo, "api: done", slog.String("operation", "backup-cluster"))
		return
	}
	a.logAbout(ctx, slog.LevelWarn, "api: failed", slog.String("operation", "backup-cluster"), slog.Any("err", err))
	raw, _ := json.Marshal(problem(err))
	s.w.Header().Set(trailerError, string(raw))
}

func (a *API) check(ctx context.Context, s *streamWriter) {
	var mu sync.Mutex
	var last time.Time
	var step string
	enc := json.NewEncoder(s)
	r, err := a.opt.Maintenance.Check(ctx, func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Step == step && time.Since(last) < progressEvery {
			return
		}
		step, last = p.Step, time.Now()
		if enc.Encode(CheckEvent{Progress: &p}) == nil {
			_ = s.rc.Flush()
		}
	})
	e := CheckEvent{Report: r}
	if err != nil {
		a.logAbout(ctx, slog.LevelWarn, "api: failed", slog.String("operation", "check-cluster"), slog.Any("err", err))
		e = CheckEvent{Error: problem(err)}
	}
	_ = enc.Encode(e)
}

type allowDeletionInput struct {
	Body struct {
		Incarnation uint64 `json:"incarnation" doc:"That of the metadata, as the check reports it"`
	}
}

func (a *API) allowDeletion(ctx context.Context, in *allowDeletionInput) (*struct{}, error) {
	_, err := a.opt.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_AllowDeletion{AllowDeletion: &metapb.AllowDeletion{Incarnation: in.Body.Incarnation}}})
	return nil, err
}

// AllowDeletion lets block stores delete what metadata of that incarnation does not know.
func (c *Client) AllowDeletion(ctx context.Context, incarnation uint64) error {
	var in allowDeletionInput
	in.Body.Incarnation = incarnation
	return c.call(ctx, http.MethodPost, "/cluster/allow-deletion", in.Body, nil)
}

// open begins to read a streamed answer.
func (c *Client) open(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+prefix+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var own *vfs.Error
		if errors.As(err, &own) {
			return nil, own
		}
		return nil, vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return nil, vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
		}
		return nil, refusal(resp.StatusCode, raw)
	}
	return resp, nil
}

// Backup writes a backup of the metadata to out. What is written is a backup only if there is no error.
func (c *Client) Backup(ctx context.Context, out io.Writer) error {
	resp, err := c.open(ctx, "/cluster/backup")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return vfs.Errorf(vfs.KindUnavailable, "", "the backup was cut off: %w", err)
	}
	if raw := resp.Trailer.Get(trailerError); raw != "" {
		return refusal(http.StatusInternalServerError, []byte(raw))
	}
	return nil
}

// Check checks the cluster and tells progress.
func (c *Client) Check(ctx context.Context, progress func(Progress)) (*Report, error) {
	resp, err := c.open(ctx, "/cluster/check")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var e CheckEvent
		if err := dec.Decode(&e); err != nil {
			return nil, vfs.Errorf(vfs.KindUnavailable, "", "the check was cut off: %w", err)
		}
		switch {
		case e.Report != nil:
			return e.Report, nil
		case e.Error != nil:
			raw, err := json.Marshal(e.Error)
			if err != nil {
				return nil, err
			}
			return nil, refusal(e.Error.Status, raw)
		case e.Progress != nil:
			progress(*e.Progress)
		}
	}
}
