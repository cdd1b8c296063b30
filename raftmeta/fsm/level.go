package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Level is the newest feature level that shards are raised to.
const Level = levelLoose

// levelCollect is the level that added what collection, rewriting of extents and changes of placement groups need:
// dying blocks are queued by number, and the cluster map has a version.
const levelCollect = 2

// levelPOSIX is the level that added what a complete POSIX file system over NFSv4.2 needs.
const levelPOSIX = 3

// levelCluster is the level that added what a cluster of many nodes, groups and file systems needs.
const levelCluster = 4

// levelService is the level that added what accounts, jobs, options of exports, local volumes, the end of groups, and slots that come and go need.
const levelService = 5

// levelGateways is the level that added what several gateways need that serve the same file systems.
const levelGateways = 6

// levelHandover is the level that added what gateways need that hand over to each other what they have of clients, and leases of gateways whose length is in their registration.
const levelHandover = 7

// levelCalledData is the level that added that the bytes of clients' calls are written once: CommitData remembers whose it carries.
const levelCalledData = 8

// levelCalledRanges is the level that added that ranges of files are changed once for clients' calls: PunchHole, Allocate and CloneRange remember by place for whom they did it.
const levelCalledRanges = 9

// levelLoose is the level that added that opens without a record outlive their gateway: those that go on get one (KeepOpens), and files without names stay for a while for
// a gateway that was ended. And that a call which goes on without its client's request can be ended for good: FenceCall.
const levelLoose = 10

// levelOf is the level that added a command.
func levelOf(c *metapb.Command) uint32 {
	switch c.Op.(type) {
	case *metapb.Command_ReapBlocks, *metapb.Command_ReturnBlocks, *metapb.Command_RewriteExtents,
		*metapb.Command_ChangePgs, *metapb.Command_ReplaceStore:
		return levelCollect
	case *metapb.Command_Touch, *metapb.Command_PunchHole, *metapb.Command_Allocate, *metapb.Command_CloneRange,
		*metapb.Command_SetXattr, *metapb.Command_RemoveXattr, *metapb.Command_OpenFile, *metapb.Command_CloseFiles,
		*metapb.Command_SetLock, *metapb.Command_ReleaseClients, *metapb.Command_ReleaseSession, *metapb.Command_PutClient,
		*metapb.Command_RemoveClient, *metapb.Command_TakeClients, *metapb.Command_ForgetClients, *metapb.Command_PutSession,
		*metapb.Command_RemoveSession,
		*metapb.Command_SetProject, *metapb.Command_SetQuota, *metapb.Command_ReserveQuota, *metapb.Command_ReleaseQuota,
		*metapb.Command_PutNode, *metapb.Command_RemoveNode, *metapb.Command_PutToken, *metapb.Command_JoinNode:
		return levelPOSIX
	case *metapb.Command_PutGroup, *metapb.Command_RemoveGroup, *metapb.Command_ReserveRacks, *metapb.Command_SetNodeGroup, *metapb.Command_RemovePool,
		*metapb.Command_SetNodeState, *metapb.Command_RetireNode, *metapb.Command_RetireStores,
		*metapb.Command_RemoveFileSystem, *metapb.Command_DeleteNamespace, *metapb.Command_LimitNamespace:
		return levelCluster
	case *metapb.Command_AllowDeletion:
		return levelCluster
	case *metapb.Command_ReleaseSlots, *metapb.Command_RetireGroup:
		return levelService
	case *metapb.Command_PutWorkspace, *metapb.Command_RemoveWorkspace, *metapb.Command_PutAccessToken, *metapb.Command_RemoveAccessToken,
		*metapb.Command_PutJob, *metapb.Command_TakeJob, *metapb.Command_PutUpload, *metapb.Command_RemoveUpload, *metapb.Command_MakeStaging:
		return levelService
	case *metapb.Command_ShareLease:
		return levelGateways
	case *metapb.Command_GiveClients:
		return levelHandover
	case *metapb.Command_KeepOpens, *metapb.Command_FenceCall:
		return levelLoose
	}
	return 1
}

// atLevel is c as a shard of that level sees it: a command that the level does not have is one without
// an operation, as it is for a version that never knew it. So all versions refuse it alike.
func atLevel(c *metapb.Command, level uint32) *metapb.Command {
	if levelOf(c) <= level {
		return c
	}
	return &metapb.Command{Id: c.Id, Time: c.Time, Fs: c.Fs, Cred: c.Cred}
}

func tooNew(c *metapb.Command, level uint32) error {
	return vfs.Errorf(vfs.KindNotSupported, "fsm", "this shard is at feature level %d, the command needs %d", level, levelOf(c))
}

// raiseLevel raises by one, so that what a level's beginning has to do is done for each.
func (x *call) raiseLevel(c *metapb.RaiseLevel) (*metapb.Result, error) {
	switch c.Level {
	case x.level:
	case x.level + 1:
		switch c.Level {
		case levelCollect:
			if err := x.beginCollect(); err != nil {
				return nil, err
			}
		case levelCluster:
			if err := x.beginCluster(); err != nil {
				return nil, err
			}
		case levelService:
			if err := x.beginService(); err != nil {
				return nil, err
			}
		}
		x.level = c.Level
	default:
		return nil, vfs.Errorf(vfs.KindInvalid, "level", "from %d to %d: a level is raised by one and never lowered", x.level, c.Level)
	}
	return &metapb.Result{}, nil
}

// beginCollect leaves it to Purge to queue the blocks that are dying already.
func (x *call) beginCollect() error {
	if x.opts.Shard == 0 {
		x.setCount(counterKey{what: counterMap}, 1)
		return nil
	}
	keys, _, err := x.firstKeys([]byte("x/"), 1)
	if err != nil || len(keys) == 0 {
		return err
	}
	return x.enqueue(&metapb.PurgeRecord{Dying: true})
}
