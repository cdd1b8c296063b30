package raftmeta

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// The check of a shard sees a wrong record in a voter's state, while the shard serves, and the comparison which voter it is that differs.
func TestCheckShard(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	gw := c.gateway(1, "gw")
	for i := range 50 {
		if _, err := gw.Apply(testContext(t), 1, createCmd(fmt.Sprintf("f%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := gw.Query(testContext(t), 1, infoQuery())
	if err != nil {
		t.Fatal(err)
	}
	applied := r.GetShardInfo().Applied
	for i := range c.servers {
		for _, records := range []int{0, 10} {
			told := uint64(0)
			rep, err := c.server(i).CheckShard(testContext(t), 1, applied, CheckOptions{Records: records, Progress: func(done, _ uint64) { told = done }})
			if err != nil || rep.Found != 0 || rep.Inodes != 51 || len(rep.Namespaces) != 1 || records > 0 && rep.Parts < 5 {
				t.Fatalf("node %d: %+v, %v, %d told", i, rep, err, told)
			}
		}
	}
	// All voters have one state.
	c.eventually("all voters to be compared", func() bool {
		all, err := c.server(0).CompareVoters(testContext(t), 1)
		if err != nil || len(all) != 3 {
			t.Fatal(all, err)
		}
		same := 0
		for _, v := range all {
			if v.Err == nil && !v.Same {
				t.Fatalf("%+v", v)
			}
			if v.Same {
				same++
			}
		}
		return same == 3
	})

	// A wrong usage record, and another digest, at one voter that is not the leader.
	victim := (c.leader(1) + 1) % 3
	c.stop(victim)
	state := filepath.Join(c.path(victim), "shard-00001", "state")
	name, err := os.ReadFile(filepath.Join(state, "CURRENT"))
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(state, strings.TrimSpace(string(name)))
	usage, _ := (&metapb.UsageRecord{Bytes: 4711, Inodes: 51}).MarshalVT()
	err = machine.Edit(db, db+".new", machine.Options{Logger: quietLog(t)}, func(s fsm.Store) error {
		st, _, err := s.Get([]byte("m/state"))
		if err != nil {
			return err
		}
		st = append([]byte(nil), st...)
		st[len(st)-1] ^= 1 // the digest
		if err := s.Set([]byte("m/state"), st); err != nil {
			return err
		}
		return s.Set(binary.BigEndian.AppendUint32([]byte("u/"), testFS), usage)
	})
	if err == nil {
		err = os.RemoveAll(db)
	}
	if err == nil {
		err = os.Rename(db+".new", db)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.start(victim)
	rep, err := c.server(victim).CheckShard(testContext(t), 1, 0, CheckOptions{Most: 10})
	if err != nil || rep.Found != 1 || !strings.Contains(rep.Violations[0].Error(), "counted 4711") {
		t.Fatalf("the spoiled voter: %+v, %v", rep, err)
	}
	all, err := c.server((victim+1)%3).CompareVoters(testContext(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		// The leader may have seen it before, and told the voter to stop.
		if bad := v.Node == c.names[victim]; v.Same == bad {
			t.Fatalf("%+v", v)
		}
	}
}
