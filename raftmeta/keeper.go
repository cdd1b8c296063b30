package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/raftmeta/internal/members"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// keeperPause is how often a keeper looks at its replica, and the pause after a step that did not succeed.
	keeperPause = 500 * time.Millisecond
	// silentRounds is how many looks in a row a voter has to be without a leader before its keeper asks whether it was removed.
	silentRounds = 6
	// memberTimeout bounds one call that changes a shard's members. It is longer than the leader's own wait for a replica.
	memberTimeout = 15 * time.Second
	// replacePause is how long a keeper waits, after it made a new replica, before it makes another: a disk that damages
	// one after the other is not worn out by it.
	replacePause = 10 * time.Minute
	// reopenTrust is how long a replica that was opened again has to run for its next failure to be a new one.
	reopenTrust = 10 * time.Minute
	// retryMin and retryMax bound the pause before a replica that failed is opened, or replaced, once more.
	retryMin = time.Second
	retryMax = time.Minute

	waitingForLeader = "waiting for a leader of the shard"
)

// keeper sees to it that this node has a voter of a shard: it asks the leader for the steps of package members, and makes
// a new replica when the node's own is lost. What it knows is in the directory and in Raft's configuration, so
// a crash loses nothing.
type keeper struct {
	s  *Server
	id uint16

	replaced time.Time     // when it made a replica; zero: never in this process
	opened   time.Time     // when it opened the failed one again
	tries    int           // how often, and how often replacing it failed, since the replica ran for long
	next     time.Time     // nothing is tried before
	doubt    *machine.Host // its state may not be opened before it was discarded; nil: none
	said     string        // last message of the log
	doing    string        // in the last look,
	looks    int           // and for how many in a row
	silent   int           // looks in a row in which the voter had no leader
	asked    int           // looks until the others are asked for their incarnation
}

func (k *keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		again, doing, err := k.step(ctx)
		if ctx.Err() != nil {
			return
		}
		k.say(doing, err)
		if again {
			continue
		}
		if pause(ctx, keeperPause) != nil {
			return
		}
	}
}

// say publishes what is being done, and logs it when it changes.
func (k *keeper) say(doing string, err error) {
	text := doing
	if err != nil {
		text = doing + ": " + err.Error()
	}
	k.s.mu.Lock()
	k.s.keeping[k.id] = text
	k.s.mu.Unlock()
	if doing != k.doing {
		k.doing, k.looks = doing, 0
	}
	k.looks++
	// Without a leader is how every new shard begins: news only when it lasts.
	if doing == k.said || doing == waitingForLeader && k.looks < silentRounds {
		return
	}
	if k.said = doing; doing == "" {
		k.s.opt.Logger.Info("raftmeta: the replica votes", "shard", k.id)
		return
	}
	k.s.opt.Logger.Warn("raftmeta: this node has no voter of the shard and is getting one", "shard", k.id, "doing", doing, "err", err)
}

// step does the next thing. again: there may be more to do at once. doing is "" when there is nothing to do.
func (k *keeper) step(ctx context.Context) (again bool, doing string, err error) {
	s := k.s
	s.mu.RLock()
	sh, broken := s.shards[k.id], s.broken[k.id]
	s.mu.RUnlock()
	if sh != nil && sh.failure() == nil {
		k.outlived(ctx, sh)
	}
	if sh != nil {
		if broken = sh.failure(); broken == nil && sh.settled() {
			sh.target.Store(0)
			k.silent = 0
			return false, "", nil
		}
	}
	// A voter without a leader is the rule at every start and election, and the exception when it was removed.
	election := sh != nil && broken == nil && sh.membership() == Voter && sh.alone()
	if election {
		if k.silent++; k.silent < silentRounds {
			return false, "", nil
		}
	}
	if broken != nil {
		what := remedyOf(broken)
		if what == leave {
			return false, "", nil // it says itself why it stopped; another release may help
		}
		if time.Now().Before(k.next) {
			return false, "waiting: opening or replacing the failed replica did not help; it is tried again within a minute", nil
		}
		if what == reopen && (k.firstFailure() || !k.maySpare(ctx, broken)) {
			return k.reopen(sh)
		}
	}
	report, err := s.askMembers(ctx, k.id, metapb.MemberAction_MEMBER_REPORT, "")
	if err != nil && election {
		return false, "", nil
	}
	if err != nil {
		return false, waitingForLeader, err
	}
	ms := membersOf(report, nil)
	if !slices.ContainsFunc(ms, func(m members.Member) bool { return mux.NodeOf(m.ID) == s.node.Name }) {
		if fates, err := s.fates(ctx); err == nil && fates[s.node.Name] != Stays {
			return false, "this node leaves: it has no replica of the shard any more", nil
		}
	}
	if broken != nil {
		return k.replace(sh, ms)
	}
	sh.target.Store(report.Commit)
	if sh.raft.State() == raft.Shutdown {
		return k.replace(sh, ms) // it got the entry that removed it
	}
	next := members.Next(sh.info.ID, sh.raft.LastIndex() == 0, ms)
	var action metapb.MemberAction
	switch next.Action {
	case members.None:
		return false, "", nil
	case members.Superseded:
		return k.replace(sh, ms)
	case members.Join:
		action = metapb.MemberAction_MEMBER_JOIN
	case members.Promote:
		action = metapb.MemberAction_MEMBER_PROMOTE
	case members.Remove:
		action = metapb.MemberAction_MEMBER_REMOVE
	}
	doing = "non-voter " + sh.info.ID + " catches up"
	if next.Action == members.Join {
		doing = "new replica " + sh.info.ID + " joins"
	}
	if _, err := s.askMembers(ctx, k.id, action, next.Replica); err != nil {
		return false, doing, err
	}
	return true, doing, nil
}

// settled reports, from what this replica knows alone, that it votes, hears from a leader, and is the only one of its node.
func (sh *shard) settled() bool {
	_, leader := sh.raft.LeaderWithID()
	return leader != "" && sh.membership() == Voter && sh.alone()
}

// alone reports that there is no other replica of the node in the newest configuration that this one knows.
func (sh *shard) alone() bool {
	f := sh.raft.GetConfiguration()
	return f.Error() == nil && !slices.ContainsFunc(f.Configuration().Servers, func(srv raft.Server) bool {
		return string(srv.ID) != sh.info.ID && mux.NodeOf(string(srv.ID)) == mux.NodeOf(sh.info.ID)
	})
}

// remedy is what helps a replica that does not run.
type remedy int

const (
	leave   remedy = iota // nothing that this process can do
	reopen                // its files may be whole: see replica and machine, which trust only what the device has
	renewal               // a new replica in its place
)

// remedyOf is what helps after err. Not for an entry of a newer release, which a new replica would not understand either.
func remedyOf(err error) remedy {
	switch vfs.KindOf(err) {
	case vfs.KindCorrupt, vfs.KindNotFound, vfs.KindFenced:
		return renewal
	case vfs.KindIO, vfs.KindNoSpace, vfs.KindQuota, vfs.KindReadOnly, vfs.KindUnavailable:
		return reopen
	}
	return leave
}

// diskFailed reports an error that the disk's file system gave, and may not give again.
func diskFailed(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EDQUOT)
}

// firstFailure reports that the replica ran for long, or was not opened again yet.
func (k *keeper) firstFailure() bool {
	if k.tries > 0 && time.Since(k.opened) > reopenTrust {
		k.tries = 0
	}
	return k.tries == 0
}

// maySpare reports that a replica that failed again is to be replaced: the shard serves without it, and neither a full disk is the reason,
// which a second copy would not help, nor was the last new one lost too. Else it is opened again, later and later.
func (k *keeper) maySpare(ctx context.Context, broken error) bool {
	if kind := vfs.KindOf(broken); kind == vfs.KindNoSpace || kind == vfs.KindQuota || !k.replaced.IsZero() && time.Since(k.replaced) < replacePause {
		return false
	}
	report, err := k.s.askMembers(ctx, k.id, metapb.MemberAction_MEMBER_REPORT, "")
	return err == nil && members.Others(k.s.node.Name, membersOf(report, nil)) == nil
}

// tried notes an attempt and makes the next one wait, the longer the more there were.
func (k *keeper) tried() {
	k.opened = time.Now()
	k.next = k.opened.Add(min(retryMin<<min(k.tries, 10), retryMax))
	k.tries++
}

// reopen opens the replica again after its disk failed it. What it acknowledged and does not find is damage, for which it is replaced.
func (k *keeper) reopen(sh *shard) (bool, string, error) {
	const doing = "opening the replica again after its disk failed"
	s := k.s
	k.tried()
	if sh != nil {
		s.opt.Logger.Warn("raftmeta: the replica is opened again after a failure", "shard", k.id, "replica", sh.info.ID, "err", sh.failure())
		k.takeDown(sh, sh.failure())
		k.doubt = sh.host
	}
	if k.doubt != nil {
		if err := k.doubt.Discard(); err != nil {
			k.setBroken(err)
			return false, doing, err
		}
		k.doubt = nil
	}
	fresh, err := s.openShard(k.id)
	if err != nil {
		k.setBroken(err)
		return false, doing, err
	}
	k.serve(fresh)
	return true, doing, nil
}

// takeDown ends a replica and closes what it holds.
func (k *keeper) takeDown(sh *shard, why error) {
	s := k.s
	s.mu.Lock()
	delete(s.shards, k.id)
	s.broken[k.id] = why
	s.mu.Unlock()
	sh.quiesce()
	if err := sh.close(); err != nil {
		s.opt.Logger.Warn("raftmeta: close the lost replica", "shard", k.id, "err", err)
	}
}

func (k *keeper) setBroken(err error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.s.broken[k.id] = err
}

// serve makes an opened replica the server's.
func (k *keeper) serve(sh *shard) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	delete(k.s.broken, k.id)
	k.s.shards[k.id] = sh
}

// replace sets the directory of the lost replica aside and makes a new replica, if the shard serves without this node.
func (k *keeper) replace(sh *shard, ms []members.Member) (bool, string, error) {
	s := k.s
	if err := members.Others(s.node.Name, ms); err != nil {
		return false, "waiting: the lost replica is replaced when the other voters are a healthy majority", err
	}
	if wait := time.Until(k.replaced.Add(replacePause)); !k.replaced.IsZero() && wait > 0 {
		return false, "waiting: the last new replica was lost too: look at the disk; the next one is made later, or at a restart", nil
	}
	doing := "making a new replica"
	if sh != nil {
		why := sh.failure()
		if why == nil {
			why = vfs.Errorf(vfs.KindFenced, "raftmeta.keeper", "replica %s is not a member of shard %d any more", sh.info.ID, k.id)
		}
		k.takeDown(sh, why)
	}
	info, aside, err := s.node.Replace(k.id, s.logBackend(), s.opt.Clock())
	if err != nil {
		k.tried()
		return false, doing, err
	}
	k.replaced, k.doubt = time.Now(), nil
	s.opt.Logger.Warn("raftmeta: a new replica replaces the lost one", "shard", k.id, "replica", info.ID, "set_aside", aside)
	fresh, err := s.openShard(k.id)
	if err != nil {
		k.setBroken(err)
		return false, doing, err
	}
	k.serve(fresh)
	return true, doing, nil
}

// logBackend is that of new replicas.
func (s *Server) logBackend() Backend {
	if s.opt.Log == "" {
		return replica.WAL
	}
	return s.opt.Log
}

// Members asks the leader of a shard who its members are.
func (s *Server) Members(ctx context.Context, shard uint16) ([]Member, error) {
	r, err := s.askMembers(ctx, shard, metapb.MemberAction_MEMBER_REPORT, "")
	if err != nil {
		return nil, err
	}
	var out []Member
	for _, m := range r.Members {
		out = append(out, Member{ID: m.Id, Voter: m.Voter, Match: m.Match, Commit: r.Commit, Trouble: m.Trouble})
	}
	return out, nil
}

// Member is a replica in a shard's configuration, as the leader sees it.
type Member struct {
	ID      string
	Voter   bool
	Match   uint64 // its log reaches so far
	Commit  uint64 // of the leader
	Trouble string // why it is not healthy; "" if it is
}

// askMembers asks the leader of a shard for its members, or to change them.
func (s *Server) askMembers(ctx context.Context, shard uint16, action metapb.MemberAction, id string) (*metapb.MemberReply, error) {
	reply := new(metapb.MemberReply)
	err := s.askLeader(ctx, shard, OpMember, &metapb.MemberRequest{Shard: uint32(shard), Action: action, Replica: id}, reply)
	return reply, err
}

// askLeader makes one call to the leader of a shard, whichever node that is.
func (s *Server) askLeader(ctx context.Context, shard uint16, op wire.Op, req, reply message) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	known := s.opt.NodesFunc()
	nodes := slices.Clone(known)
	if len(nodes) == 0 {
		nodes = []string{s.node.Name}
	}
	var errs []error
	asked := map[string]bool{}
	for i := 0; i < len(nodes); i++ {
		if asked[nodes[i]] {
			continue
		}
		asked[nodes[i]] = true
		err := s.peers.call(ctx, nodes[i], op, req, reply)
		if err == nil {
			return nil
		}
		var e *vfs.Error
		if vfs.KindOf(err) != vfs.KindNotLeader {
			if wire.Answered(err) {
				return err // the leader's answer
			}
			errs = append(errs, fmt.Errorf("%s: %w", nodes[i], err))
			continue
		}
		if errors.As(err, &e) && slices.Contains(known, e.Text) && !asked[e.Text] {
			nodes = slices.Insert(nodes, i+1, e.Text) // whom it takes for the leader
		}
	}
	if len(errs) == 0 {
		return vfs.Errorf(vfs.KindUnavailable, "raftmeta.member", "no node leads shard %d", shard)
	}
	return vfs.Errorf(vfs.KindUnavailable, "raftmeta.member", "no node leads shard %d: %w", shard, errors.Join(errs...))
}
