//go:build linux

package cluster

import "testing"

// All nodes are stopped and started, one at a time, the gateway too, as for an upgrade: no call fails.
func TestRollingRestart(t *testing.T) {
	c := newCluster(t, 3, 3, "")
	s := c.startStorm()
	for range short(t, 1, 3) {
		for _, m := range c.all {
			s.goesOn(short(t, 50, 500))
			s.mark()
			m.stop()
			s.goesOnIfServed(m)
			down := s.mark()
			m.start()
			s.goesOn(50)
			up := s.mark()
			c.healthy()
			t.Logf("%s (%s) stopped: %v; started: %v", m.name, m.conf.roles, down, up)
		}
	}
	s.finish()
}

// goesOnIfServed waits for calls to be answered while a node is away, unless that is the gateway.
func (s *storm) goesOnIfServed(away *machine) {
	s.c.t.Helper()
	if away != s.c.gateway() {
		s.goesOn(50)
	}
}
