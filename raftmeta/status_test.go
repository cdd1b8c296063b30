package raftmeta

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// Why a replica stopped can be read in the status as JSON, which is where operators look.
func TestStatusAsJSON(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	i := c.leader(1)
	st, _ := c.status(i, 1)
	if b, err := json.Marshal(st); err != nil || !strings.Contains(string(b), `"Err":""`) {
		t.Fatalf("status of a running replica: %s, %v", b, err)
	}
	c.server(i).shards[1].fatal(errors.New("the log is gone"))
	c.eventually("the reason in the status", func() bool {
		st, _ := c.status(i, 1)
		b, err := json.Marshal(st)
		return err == nil && strings.Contains(string(b), "the log is gone") && st.Role == "Shutdown"
	})
}
