package raftnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A pipeline that is refused ends at once: nobody reads answers after that one, and a sender that waits for room would never see it.
func TestPipelineEndsWithARefusal(t *testing.T) {
	h := &hub{addrs: map[string]string{}}
	a, b := open(t, h, "a", patience), open(t, h, "b", patience)
	n := 0
	serve(t, b, func(rpc raft.RPC) {
		n++
		rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: n != 4}, nil)
	})
	p, err := a.AppendEntriesPipeline("b", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	read := make(chan struct{})
	go func() { // as Raft's decoder does
		defer close(read)
		for (<-p.Consumer()).Response().Success {
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := uint64(0); err == nil; i++ {
			_, err = p.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: from, Term: 1, PrevLogEntry: i}, new(raft.AppendEntriesResponse))
		}
	}()
	within(t, "the refusal to be read", read)
	within(t, "the sender to end", ended)
}

// What says nothing new is not sent, for a while; all that does is.
func TestNothingNew(t *testing.T) {
	h := &hub{addrs: map[string]string{}}
	a, b := open(t, h, "a", patience), open(t, h, "b", patience)
	var now atomic.Int64
	a.opt.Clock = func() time.Time { return moment.Add(time.Duration(now.Load())) }
	arrived := 0
	serve(t, b, func(rpc raft.RPC) {
		arrived++
		rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
	})
	p, err := a.AppendEntriesPipeline("b", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i, step := range []struct {
		req   raft.AppendEntriesRequest
		later time.Duration
		sent  bool
	}{
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4}, sent: true},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4}},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4}, later: quiet - 1},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4}, later: 1, sent: true},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4}},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 4, Entries: []*raft.Log{{Index: 5, Term: 1}}}, sent: true},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 5, PrevLogTerm: 1, LeaderCommitIndex: 4}, sent: true}, // it may have been told less
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 5, PrevLogTerm: 1, LeaderCommitIndex: 5}, sent: true},
		{req: raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 5, PrevLogTerm: 1, LeaderCommitIndex: 5}},
		{req: raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 5, PrevLogTerm: 1, LeaderCommitIndex: 5}, sent: true},
	} {
		now.Add(int64(step.later))
		before := arrived
		step.req.RPCHeader = from
		f, err := p.AppendEntries(&step.req, new(raft.AppendEntriesResponse))
		if err != nil {
			t.Fatal(err)
		}
		if step.sent {
			within(t, "the answer", p.Consumer())
		}
		if f.Error() != nil || !f.Response().Success || arrived-before != map[bool]int{true: 1}[step.sent] {
			t.Fatalf("step %d: %v, %+v, %d arrived, want %v", i, f.Error(), f.Response(), arrived-before, step.sent)
		}
	}
}

// mute is a replica that takes streams and never answers, nor reads.
func mute(t *testing.T, h *hub, self string) (taken chan net.Conn) {
	p := h.open(t, self)
	taken = make(chan net.Conn, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, _, err := p.Accept()
			if err != nil {
				return
			}
			taken <- nc
		}
	}()
	t.Cleanup(func() {
		p.ln.Close()
		<-done
		for len(taken) > 0 {
			(<-taken).Close()
		}
	})
	return taken
}

// A follower that does not answer, and one that does not read, are given up after the timeout, by single calls and by a pipeline.
func TestSilence(t *testing.T) {
	big := &raft.AppendEntriesRequest{RPCHeader: from, Term: 1}
	data := make([]byte, 1<<20)
	for i := range 16 {
		big.Entries = append(big.Entries, &raft.Log{Index: uint64(i) + 1, Data: data}) // more than sockets hold
	}
	for what, req := range map[string]*raft.AppendEntriesRequest{"no answer": {RPCHeader: from, Term: 1}, "no reading": big} {
		t.Run(what, func(t *testing.T) {
			h := &hub{addrs: map[string]string{}}
			a := open(t, h, "a", 50*time.Millisecond)
			mute(t, h, "b")
			if err := a.AppendEntries("b", "b", req, new(raft.AppendEntriesResponse)); err == nil {
				t.Fatal("a call that nobody answered succeeded")
			}
			p, err := a.AppendEntriesPipeline("b", "b")
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for err == nil {
					_, err = p.AppendEntries(req, new(raft.AppendEntriesResponse))
				}
			}()
			if f := within(t, "Raft to be told", p.Consumer()); f.Error() == nil || f.Response().Success {
				t.Fatalf("%v, %+v for a request that was not answered", f.Error(), f.Response())
			}
			within(t, "the sender's end", ended)
		})
	}
}

// What a replica must not send ends the stream, with nothing of it given to Raft.
func TestHostileRequests(t *testing.T) {
	good := func() []byte {
		s := &stream{}
		s.begin(kindAppend)
		b, err := appendRequest(s.out, &raft.AppendEntriesRequest{RPCHeader: from, Term: 1, Entries: entries(1, 3)[:2]})
		if err != nil {
			t.Fatal(err)
		}
		le.PutUint32(b[4:], uint32(len(b)-headLen))
		return b
	}
	change := func(at int, v byte) []byte {
		b := good()
		b[at] = v
		return b
	}
	const count = headLen + 1 + 4*8
	for what, b := range map[string][]byte{
		"no such protocol":    []byte("GET / HTTP/1.1\r\n\r\n"),
		"another kind":        change(1, 77),
		"an answer":           change(1, kindAppend|kindAnswer),
		"a flag":              change(2, 1),
		"4 GiB":               {magic, kindAppend, 0, 0, 255, 255, 255, 255},
		"one byte too much":   append(change(4, good()[4]+1), 0),
		"an entry too many":   change(count, 3),
		"millions of entries": change(count+2, 255),
		"data beyond the end": change(count+4+entryHead-6, 255),
		"an unknown type":     change(count+4+8, 200),
		"an unknown vote":     {magic, kindVote, 0, 0, 26, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2},
		"a negative snapshot": append([]byte{magic, kindSnapshot, 0, 0, 53, 0, 0, 0}, bytes.Repeat([]byte{255}, 53)...),
	} {
		t.Run(what, func(t *testing.T) {
			h := &hub{addrs: map[string]string{}}
			b2 := open(t, h, "b", patience)
			serve(t, b2, func(rpc raft.RPC) {
				t.Errorf("given to Raft: %+v", rpc.Command)
				rpc.Respond(nil, errors.New("no"))
			})
			p := h.open(t, "a")
			defer p.ln.Close()
			nc, err := p.Dial(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := nc.Write(b); err != nil {
				t.Fatal(err)
			}
			nc.SetReadDeadline(time.Now().Add(patience))
			if n, err := io.Copy(io.Discard, nc); n > 0 || errors.Is(err, errTimeout(err)) {
				t.Fatalf("%d bytes of answer, %v", n, err)
			}
		})
	}
}

// errTimeout is err if it is a timeout.
func errTimeout(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

// What a follower must not answer ends the call, or the pipeline.
func TestHostileAnswers(t *testing.T) {
	for what, b := range map[string][]byte{
		"no such protocol":   []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"another's answer":   {magic, kindVote | kindAnswer, 0, 0, 10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1},
		"a request":          {magic, kindTimeoutNow, 0, 0, 1, 0, 0, 0, 3},
		"too long":           {magic, kindAppend | kindAnswer, 0, 0, 0, 0, 1, 0},
		"too short":          {magic, kindAppend | kindAnswer, 0, 0, 2, 0, 0, 0, 0, 1},
		"an unknown status":  {magic, kindAppend | kindAnswer, 0, 0, 18, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"an unknown outcome": {magic, kindAppend | kindAnswer, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8},
		"the end":            {},
	} {
		t.Run(what, func(t *testing.T) {
			h := &hub{addrs: map[string]string{}}
			a := open(t, h, "a", patience)
			taken := mute(t, h, "b")
			answer := func() {
				nc := within(t, "a stream", taken)
				nc.Write(b)
				nc.(*net.TCPConn).CloseWrite()
				taken <- nc
			}
			go answer()
			var resp raft.AppendEntriesResponse
			if err := a.AppendEntries("b", "b", &raft.AppendEntriesRequest{RPCHeader: from, Term: 1}, &resp); err == nil {
				t.Fatalf("taken for an answer: %+v", resp)
			}
			(<-taken).Close()
			p, err := a.AppendEntriesPipeline("b", "b")
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			_, err = p.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: from, Term: 1}, new(raft.AppendEntriesResponse))
			answer()
			for err == nil { // until the pipeline says that it ended
				_, err = p.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: from, Term: 1}, new(raft.AppendEntriesResponse))
				select {
				case f := <-p.Consumer():
					if f.Error() == nil {
						t.Fatalf("taken for an answer: %+v", f.Response())
					}
				default:
				}
			}
		})
	}
}

// An answer that nobody waits for ends a pipeline.
func TestUnasked(t *testing.T) {
	h := &hub{addrs: map[string]string{}}
	a := open(t, h, "a", patience)
	taken := mute(t, h, "b")
	p, err := a.AppendEntriesPipeline("b", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	nc := within(t, "a stream", taken)
	defer nc.Close()
	nc.Write([]byte{magic, kindAppend | kindAnswer, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	within(t, "the pipeline's end", p.(*pipeline).closed)
	if _, err := p.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: from, Term: 1}, new(raft.AppendEntriesResponse)); err == nil {
		t.Fatal("a pipeline goes on after an answer that nobody asked for")
	}
}

// A length alone takes little memory.
func TestLengthsTakeNoMemory(t *testing.T) {
	var before, after runtime.MemStats
	r, w := io.Pipe()
	go func() {
		w.Write([]byte{magic, kindAppend, 0, 0, 0, 0, 0, 4, 1, 2, 3}) // 64 MiB
		w.Close()
	}()
	s := newStream(pipeConn{r}, "x")
	runtime.ReadMemStats(&before)
	_, n, err := s.head(maxBody)
	if err != nil || n != maxBody {
		t.Fatal(n, err)
	}
	if _, err := s.body(n); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 4*bodyStep {
		t.Fatalf("%d bytes of memory for 3 that arrived", took)
	}
}

type pipeConn struct{ io.Reader }

func (pipeConn) Write(p []byte) (int, error)      { return len(p), nil }
func (pipeConn) Close() error                     { return nil }
func (pipeConn) LocalAddr() net.Addr              { return nil }
func (pipeConn) RemoteAddr() net.Addr             { return nil }
func (pipeConn) SetDeadline(time.Time) error      { return nil }
func (pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (pipeConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzRequest: what is decoded is encoded as it was, and nothing panics.
func FuzzRequest(f *testing.F) {
	for kind, m := range map[byte]any{
		kindAppend:     &raft.AppendEntriesRequest{RPCHeader: from, Term: 1, PrevLogEntry: 4, Entries: entries(5, 3)[:2]},
		kindVote:       &raft.RequestVoteRequest{RPCHeader: from, Term: 1},
		kindPreVote:    &raft.RequestPreVoteRequest{RPCHeader: from, Term: 1},
		kindSnapshot:   &raft.InstallSnapshotRequest{RPCHeader: from, Term: 1, Configuration: []byte("c"), Size: 7},
		kindTimeoutNow: &raft.TimeoutNowRequest{RPCHeader: from},
	} {
		b, err := appendRequest(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, b)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		m, err := readRequest(kind, b, from.ID)
		if err != nil {
			return
		}
		again, err := appendRequest(nil, m)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", m, err)
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("%x is %+v, which is %x", b, m, again)
		}
	})
}

// FuzzAnswer: the same for answers.
func FuzzAnswer(f *testing.F) {
	for i, m := range []any{
		&raft.AppendEntriesResponse{Term: 1, LastLog: 2, Success: true}, &raft.RequestVoteResponse{Term: 1, Granted: true}, &raft.RequestPreVoteResponse{Term: 1},
		&raft.InstallSnapshotResponse{Term: 1, Success: true}, &raft.TimeoutNowResponse{},
	} {
		b, err := appendAnswer(nil, raft.RPCResponse{Response: m})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, b)
		f.Add(i, []byte("\x01no"))
	}
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		ms := []any{new(raft.AppendEntriesResponse), new(raft.RequestVoteResponse), new(raft.RequestPreVoteResponse), new(raft.InstallSnapshotResponse), new(raft.TimeoutNowResponse)}
		m := ms[uint(i)%uint(len(ms))]
		err := readAnswer(b, from.ID, m)
		var answered remote
		if err != nil && !errors.As(err, &answered) {
			return
		}
		var r raft.RPCResponse
		if r.Response = m; answered.error != nil {
			r.Error = answered.error
		}
		if again, err := appendAnswer(nil, r); err != nil || !bytes.Equal(again, b) && len(b) <= maxAnswer {
			t.Fatalf("%x is %+v, which is %x, %v", b, r, again, err)
		}
	})
}

// A follower is told of commits that come with entries after a pause, or when many wait, and of one that comes without at once; never of one
// that the leader did not say, never of less than before.
func TestLag(t *testing.T) {
	type step struct {
		index   uint64
		entries int
		at      time.Duration // since the beginning
		want    uint64
	}
	for what, steps := range map[string][]step{
		"the first at once":       {{10, 1, 0, 10}},
		"then after the pause":    {{10, 1, 0, 10}, {11, 1, 1, 10}, {12, 1, commitPause - 1, 10}, {13, 1, commitPause, 13}, {14, 1, commitPause + 1, 13}},
		"many at once":            {{10, 1, 0, 10}, {10 + commitEntries - 1, 9, 1, 10}, {10 + commitEntries, 9, 2, 10 + commitEntries}},
		"without entries at once": {{10, 1, 0, 10}, {11, 1, 1, 10}, {11, 0, 2, 11}, {12, 1, 3, 11}},
		"nothing is committed":    {{0, 1, 0, 0}, {0, 1, 1, 0}, {3, 1, 2, 3}},
		"a heartbeat between":     {{10, 1, 0, 10}, {0, 0, 1, 0}, {11, 1, 2, 10}},
	} {
		var l lag
		begin := time.Unix(1000, 0)
		for i, s := range steps {
			if got := l.commit(s.index, s.entries, begin.Add(s.at)); got != s.want {
				t.Errorf("%s: step %d: told of %d, want %d", what, i, got, s.want)
			}
		}
	}
}

// The header of a request says who the stream's other end is, whatever the sender wrote.
func TestSenderIsTheStreams(t *testing.T) {
	h := &hub{addrs: map[string]string{}}
	a, b := open(t, h, "a", patience), open(t, h, "b", patience)
	got := make(chan raft.RPCHeader, 1)
	serve(t, b, func(rpc raft.RPC) {
		got <- rpc.Command.(raft.WithRPCHeader).GetRPCHeader()
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	})
	err := a.TimeoutNow("b", "b", &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("x"), Addr: []byte("y")}}, new(raft.TimeoutNowResponse))
	if err != nil {
		t.Fatal(err)
	}
	if g := <-got; !reflect.DeepEqual(g, from) {
		t.Fatalf("from %+v, want %+v", g, from)
	}
}
