package raftmeta

import (
	"context"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// nowhere is a Resolver that knows no node until the test ends.
type nowhere struct{}

func (nowhere) Resolve(ctx context.Context, _ string) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// TestCallsAreShared: what comes while a call is under way waits for its answer, unless it is a load; queries with long answers keep nobody waiting.
func TestCallsAreShared(t *testing.T) {
	cl, err := NewClient(ClientOptions{Nodes: []string{"a"}, Resolver: nowhere{}, Security: func(string) wire.Security { return wire.Security{} }})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cl.Close()
	s := cl.shard(1)
	apply := func() {
		wg.Go(func() {
			_, _ = cl.Apply(context.Background(), 1, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}})
		})
	}
	ask := func(q *metapb.Query) { wg.Go(func() { _, _ = cl.Query(context.Background(), 1, q) }) }
	getAttr := &metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{}}}
	readDir := &metapb.Query{Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{}}}
	is := func(what string, want [4]int) {
		t.Helper()
		eventually(t, what, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return [4]int{len(s.commands), s.proposing, len(s.short.queue), s.short.calls} == want
		})
	}
	apply()
	is("a command to go at once", [4]int{0, 1, 0, 0})
	ask(getAttr)
	is("a query to go at once", [4]int{0, 1, 0, 1})
	for i := range callLoad - 1 {
		apply()
		ask(getAttr)
		is("what is less than a load to wait", [4]int{i + 1, 1, i + 1, 1})
	}
	ask(readDir)
	eventually(t, "a query with a long answer to go at once", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.long.calls == 1 && s.short.calls == 1
	})
	apply()
	is("a load to go", [4]int{0, 2, callLoad - 1, 1})
	ask(getAttr)
	is("a load to go", [4]int{0, 2, 0, 2})
}
