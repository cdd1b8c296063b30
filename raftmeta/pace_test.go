package raftmeta

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Those that make a majority with the leader are never held, whoever else is in the line; all others are.
func TestPaceHoldsWhoIsNotNeeded(t *testing.T) {
	for _, c := range []struct{ voters, line, held string }{
		{"l", "", ""},
		{"la", "a", ""},
		{"lab", "ab", "b"},
		{"lab", "b", ""}, // a has no connection
		{"lab", "xab", "xb"},
		{"lab", "axb", "xb"},
		{"labcd", "abcd", "cd"},
		{"labcd", "dxcab", "xab"},
		{"abc", "abc", "c"}, // the leader is about to leave
	} {
		pc := &pace{self: "l", voters: func() []string { return split(c.voters) }}
		held := ""
		for _, id := range split(c.line) {
			pc.join(&pipeline{id: id})
		}
		for _, p := range pc.line {
			if _, h := pc.hold(p); h {
				held += p.id
			}
		}
		if held != c.held {
			t.Errorf("voters %s, line %s: %q are held, want %q", c.voters, c.line, held, c.held)
		}
	}
}

func split(s string) (ids []string) {
	for _, r := range s {
		ids = append(ids, string(r))
	}
	return ids
}

// Who owes an answer all the time that another one waits gives its place to that one, and nobody else does.
func TestPaceFollowsTheFaster(t *testing.T) {
	for _, c := range []struct {
		name           string
		sent, answered uint64 // of a when b begins to wait
		later          uint64 // answered when the wait is over
		more           uint64 // sent meanwhile
		want           string
	}{
		{"owes nothing", 7, 7, 7, 7, "abc"},
		{"answers in time", 7, 6, 7, 7, "abc"},
		{"answers in time, and owes the next", 7, 6, 7, 9, "abc"},
		{"owes what was sent meanwhile only", 7, 7, 7, 8, "abc"},
		{"answers too late", 7, 6, 6, 7, "bac"},
		{"answers half of it", 7, 5, 6, 7, "bac"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pc := &pace{self: "l", voters: func() []string { return split("lab") }}
			a, b, other := &pipeline{id: "a"}, &pipeline{id: "b"}, &pipeline{id: "c"}
			for _, p := range []*pipeline{a, b, other} {
				pc.join(p)
			}
			a.sent.Store(c.sent)
			a.answered.Store(c.answered)
			ahead, held := pc.hold(b)
			if !held {
				t.Fatal("b is not held")
			}
			a.sent.Store(c.more)
			a.answered.Store(c.later)
			pc.waited(b, ahead)
			got := ""
			for _, p := range pc.line {
				got += p.id
			}
			if got != c.want {
				t.Errorf("the line is %s, want %s", got, c.want)
			}
			pc.leave(pc.line[0])
			if _, held := pc.hold(pc.line[0]); held {
				t.Error("the first in the line is held")
			}
		})
	}
}

// A follower that is not needed gets its entries all the same, when the one that is needed is silent, and is the one that is needed from then on.
func TestPaceOfASilentFollower(t *testing.T) {
	ids := []string{"l", "silent", "other"}
	pc := &pace{self: "l", voters: func() []string { return ids }}
	open := func() *raft.NetworkTransport {
		tr, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, time.Minute, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	leader := open()
	pipelines := map[string]raft.AppendPipeline{}
	got := make(chan string, 16)
	stop := make(chan struct{})
	defer close(stop)
	for _, id := range ids[1:] {
		follower := open()
		go func() {
			for {
				select {
				case rpc := <-follower.Consumer():
					if got <- id; id != "silent" {
						rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
					}
				case <-stop:
					return
				}
			}
		}()
		p, err := transport{leader, pc}.AppendEntriesPipeline(raft.ServerID(id), follower.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		pipelines[id] = p
	}
	send := func(id string) {
		t.Helper()
		if _, err := pipelines[id].AppendEntries(&raft.AppendEntriesRequest{Term: 1, Entries: []*raft.Log{{Index: 1, Term: 1}}}, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		select {
		case who := <-got:
			if who != id {
				t.Fatalf("%s got what was for %s", who, id)
			}
		case <-time.After(patience):
			t.Fatalf("%s got nothing", id)
		}
	}
	send("silent")
	send("other")
	pc.mu.Lock()
	defer pc.mu.Unlock()
	if i := slices.IndexFunc(pc.line, func(p *pipeline) bool { return p.id == "other" }); i != 0 {
		t.Errorf("who answers is at place %d of %s", i, fmt.Sprint(len(pc.line)))
	}
}
