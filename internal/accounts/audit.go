package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// AuditName is the name of the audit log in a data directory; older ones have .1, .2 and so on behind it.
	AuditName = "audit.log"

	auditBytes = 64 << 20 // of one file
	auditKept  = 8        // older files

	// Of events of callers who are nobody strangerBurst are written at once, and then one each strangerEvery, with so many bytes of what they were about: 25 MiB a day, or
	// 150 MiB of what JSON has to escape.
	strangerBurst = 100
	strangerEvery = time.Second
	strangerTo    = 256
)

// Event is one line of the audit log.
type Event struct {
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`             // name of the token, or operator
	Token   string    `json:"token,omitempty"` // its id
	From    string    `json:"from,omitempty"`  // address
	Did     string    `json:"did"`             // operation
	To      string    `json:"to,omitempty"`    // what it was about
	Outcome string    `json:"outcome"`         // "ok", or the kind of the refusal
	Status  int       `json:"status"`
	Request string    `json:"request,omitempty"` // the id of the request
	// Suppressed is how many events of callers who are nobody were left out since the last one that was written.
	Suppressed int `json:"suppressed,omitempty"`
}

// Audit writes events down: as lines of JSON in a file, and to a logger. nil does nothing.
type Audit struct {
	path      string
	log       *slog.Logger
	strangers *rate.Limiter

	mu         sync.Mutex // guards the following
	file       *os.File
	size       int64
	bad        bool // the last write failed
	suppressed int
}

// OpenAudit appends to the file path.
func OpenAudit(path string, log *slog.Logger) (*Audit, error) {
	a := &Audit{path: path, log: log, strangers: rate.NewLimiter(rate.Every(strangerEvery), strangerBurst)}
	if err := a.open(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if a.size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return err
	}
	a.file = f
	return nil
}

// Note writes an event down.
func (a *Audit) Note(e Event) {
	if a == nil {
		return
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.String("who", e.Who), slog.String("token", e.Token), slog.String("from", e.From),
		slog.String("did", e.Did), slog.String("to", e.To), slog.String("outcome", e.Outcome), slog.String("request", e.Request))
	line, err := json.Marshal(e)
	if err == nil {
		err = a.write(append(line, '\n'))
	}
	a.mu.Lock()
	was := a.bad
	a.bad = err != nil
	a.mu.Unlock()
	if err != nil && !was {
		a.log.Error("the audit log cannot be written; its events are in this log only", "err", err)
	}
}

// NoteStranger is Note for an event of a caller who is nobody. If there are too many of them they are counted only: whoever can reach the gateway would else have all others
// rotated away.
func (a *Audit) NoteStranger(e Event) {
	if a == nil {
		return
	}
	a.mu.Lock()
	written := a.strangers.AllowN(e.Time, 1)
	if written {
		e.To = e.To[:min(len(e.To), strangerTo)]
		e.Suppressed, a.suppressed = a.suppressed, 0
	} else {
		a.suppressed++
	}
	a.mu.Unlock()
	if written {
		a.Note(e)
	}
}

func (a *Audit) write(line []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	if a.size > 0 && a.size+int64(len(line)) > auditBytes {
		a.file.Close()
		a.file = nil
		for i := auditKept - 1; i >= 0; i-- {
			from := a.path
			if i > 0 {
				from += "." + strconv.Itoa(i)
			}
			if err := os.Rename(from, a.path+"."+strconv.Itoa(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err := a.open(); err != nil {
			return err
		}
	}
	n, err := a.file.Write(line)
	a.size += int64(n)
	return err
}

// Close ends it.
func (a *Audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
