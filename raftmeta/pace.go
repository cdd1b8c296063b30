package raftmeta

import (
	"slices"
	"sync"
	"time"
)

// followerLag is how long entries wait that a follower gets of whom the majority has no need.
const followerLag = 5 * time.Millisecond

// pace decides which followers of a leader get entries at once: as many as make a majority with it. The others, and replicas without a vote, get them
// together with those of the next few milliseconds, so that a message, a sync of their log and a round of their state machine stand for several
// entries. When one entry follows the other, as commands of one caller do, these are most of what an entry costs.
//
// It is about speed only. Raft counts the answers as they come, each is asked for within followerLag in any case, and who takes longer than that to answer
// gives its place to one who waits: so a follower that is slow, or silent, delays a commit by followerLag, once.
type pace struct {
	self   string          // the leader's replica
	voters func() []string // of the newest configuration

	mu   sync.Mutex
	line []*pipeline // the open ones; the first get entries at once. Guarded by mu
}

// awaited is what somebody ahead in the line has not answered yet.
type awaited struct {
	p    *pipeline
	sent uint64 // up to which message
}

func (c *pace) join(p *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line = append(c.line, p)
}

func (c *pace) leave(p *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.line, p); i >= 0 {
		c.line = slices.Delete(c.line, i, i+1)
	}
}

// hold reports whether p's entries may wait, and what those ahead of it have not answered at this moment.
func (c *pace) hold(p *pipeline) (ahead []awaited, held bool) {
	voters := c.voters()
	need := len(voters)/2 + 1 // for a majority
	if slices.Contains(voters, c.self) {
		need--
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.line {
		if other == p || need == 0 {
			break
		}
		if slices.Contains(voters, other.id) {
			need--
			if sent := other.sent.Load(); other.answered.Load() < sent {
				ahead = append(ahead, awaited{other, sent})
			}
		}
	}
	return ahead, need == 0 || !slices.Contains(voters, p.id)
}

// waited moves p, whose wait is over, to the place of the first that has not answered meanwhile what it owed when the wait began.
func (c *pace) waited(p *pipeline, ahead []awaited) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range ahead {
		if a.p.answered.Load() >= a.sent {
			continue
		}
		i, j := slices.Index(c.line, a.p), slices.Index(c.line, p)
		if i >= 0 && j > i {
			c.line[i], c.line[j] = p, a.p
		}
		return
	}
}

// wait holds p's message back for as long as that is of use.
func (c *pace) wait(p *pipeline, entries int) {
	if entries == 0 || entries >= maxAppendEntries {
		return // there is nothing to gather: it tells what is committed, or is full
	}
	ahead, held := c.hold(p)
	if !held {
		return
	}
	t := time.NewTimer(followerLag)
	defer t.Stop()
	select {
	case <-t.C:
		if slices.Contains(c.voters(), p.id) {
			c.waited(p, ahead)
		}
	case <-p.closed:
	}
}
