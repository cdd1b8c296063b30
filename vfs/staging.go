package vfs

import "context"

// stagingBase is above all inode numbers that files and directories with names get.
const stagingBase Ino = 1 << 62

// StagingIno is the inode number of a project's hidden directory, of the file system's own for project 0. What is being uploaded is in it until
// it is complete: it has no name in any directory, so that neither listings nor paths lead there.
func StagingIno(project uint32) Ino { return stagingBase + Ino(project) }

// Stager is an FS that has hidden directories.
type Stager interface {
	// Stage makes the hidden directory of a project, if there is none.
	Stage(ctx context.Context, project uint32) error
}
