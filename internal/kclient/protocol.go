//go:build linux

package kclient

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// request is one line from the harness to a guest's init.
type request struct {
	ID   uint64   `json:"id"`
	Verb string   `json:"verb"`           // run, stdin, eof, signal, mount, umount, load, halt
	Args []string `json:"args,omitempty"` // run: argv; umount: target; load: module names
	Env  []string `json:"env,omitempty"`  // run: added to the guest's environment
	Dir  string   `json:"dir,omitempty"`  // run: working directory

	Data   []byte `json:"data,omitempty"`   // stdin
	Signal int    `json:"signal,omitempty"` // signal

	Mount *Mount `json:"mount,omitempty"` // mount
}

// event is one line from a guest's init to the harness.
type event struct {
	ID   uint64 `json:"id"`             // 0: the guest is up
	Verb string `json:"verb"`           // boot, out, err, done, ack, beat
	Data []byte `json:"data,omitempty"` // out, err
	Code int    `json:"code"`           // done of run: exit status, or 128+signal; ack: bytes read
	Err  string `json:"err,omitempty"`  // done: why the request itself failed
}

const (
	// outputChunkBytes bounds the payload of one out event: a line then fits the 4 KiB buffers of the guest's tty layer.
	outputChunkBytes = 2048
	// inputWindowBytes bounds what is under way to the guest. The guest's tty layer stops the line when 4 KiB wait to be
	// read, and the serial driver of Linux 6.1 never starts it again; so that point must not be reached.
	inputWindowBytes = 2048
	// lineLimitBytes bounds a protocol line; environment and arguments of a request are the largest.
	lineLimitBytes = 1 << 20
)

// lineWriter sends JSON lines; writers may be concurrent.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer // protected by mu
}

func (l *lineWriter) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) >= lineLimitBytes {
		return fmt.Errorf("kclient: control message of %d bytes, limit %d", len(b), lineLimitBytes)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(b, '\n'))
	return err
}

// readLines decodes JSON lines until the stream ends. Lines that are no JSON object are handed to stray: the kernel can
// write to a serial line too.
func readLines[T any](r io.Reader, each func(*T), stray func([]byte)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), lineLimitBytes)
	for s.Scan() {
		v := new(T)
		if err := json.Unmarshal(s.Bytes(), v); err != nil {
			stray(s.Bytes())
			continue
		}
		each(v)
	}
	return s.Err()
}

// windowWriter limits the bytes that were written and not acknowledged. Only one goroutine writes at a time (lineWriter).
type windowWriter struct {
	w     io.Writer
	ended <-chan struct{} // closed when nobody will acknowledge any more

	acked    chan int // from the reader of events; bounded by the window, as an acknowledgement is of at least a byte
	underWay int      // owned by the writer
}

func newWindowWriter(w io.Writer, ended <-chan struct{}) *windowWriter {
	return &windowWriter{w: w, ended: ended, acked: make(chan int, inputWindowBytes)}
}

func (w *windowWriter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		for w.underWay >= inputWindowBytes {
			select {
			case n := <-w.acked:
				w.underWay -= n
			case <-w.ended:
				return len(b) - len(rest), ErrGuestGone
			}
		}
		n, err := w.w.Write(rest[:min(len(rest), inputWindowBytes-w.underWay)])
		w.underWay += n
		rest = rest[n:]
		if err != nil {
			return len(b) - len(rest), err
		}
	}
	return len(b), nil
}

// ack takes an acknowledgement of n bytes; one that exceeds what can be under way is a guest gone mad, and ignored.
func (w *windowWriter) ack(n int) {
	if n <= 0 {
		return
	}
	select {
	case w.acked <- n:
	default:
	}
}

// ackReader acknowledges what it reads.
type ackReader struct {
	r   io.Reader
	out *lineWriter
}

func (a *ackReader) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if n > 0 {
		if e := a.out.send(event{Verb: "ack", Code: n}); e != nil {
			return n, e
		}
	}
	return n, err
}
