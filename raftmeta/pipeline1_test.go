package raftmeta

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A leader that fills the pipeline to a follower, of which an answer says no, is not stuck in it, although nobody reads the answers after that one.
func TestPipelineEndsWithARefusal(t *testing.T) {
	open := func() *raft.NetworkTransport {
		tr, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, time.Minute, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	leader, follower := open(), open()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for n := 0; ; n++ {
			select {
			case rpc := <-follower.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: n != 3}, nil)
			case <-stop:
				return
			}
		}
	}()
	p, err := transport1{leader}.AppendEntriesPipeline("f", follower.LocalAddr())
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
		for err == nil {
			_, err = p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse))
		}
	}()
	for what, ch := range map[string]chan struct{}{"the refusal to be read": read, "the sender to end": ended} {
		select {
		case <-ch:
		case <-time.After(patience):
			t.Fatalf("waited for %s", what)
		}
	}
}
