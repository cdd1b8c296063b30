package api

import "github.com/rackfs/rackfs/internal/accounts"

// rules say who may call what over the network. Whoever adds an operation adds its rule: TestAccess fails without, and nobody but the operator may call it.
func rules() map[string]rule {
	const viewer, editor, admin = accounts.Viewer, accounts.Editor, accounts.Admin
	return map[string]rule{
		// The cluster. What is only looked at is for everybody who has all of it.
		"cluster-status": inCluster(viewer),
		"can-stop":       inCluster(viewer),
		"list-voters":    inCluster(viewer),
		"get-level":      inCluster(viewer),
		"raise-level":    inCluster(admin),
		"make-token":     inCluster(admin),
		"allow-deletion": inCluster(admin),
		"list-nodes":     inCluster(viewer),
		"get-node":       inCluster(viewer),
		"drain-node":     inCluster(admin),
		"undrain-node":   inCluster(admin),
		"remove-node":    inCluster(admin),
		"list-groups":    inCluster(viewer),
		"get-group":      inCluster(viewer),
		"create-group":   inCluster(admin),
		"delete-group":   inCluster(admin),
		"reserve-racks":  inCluster(admin),
		"release-racks":  inCluster(admin),
		"add-nodes":      inCluster(admin),
		"remove-nodes":   inCluster(admin),

		"rotate-gossip-key": inCluster(admin),
		"get-profile":       inCluster(admin),

		// File systems. Of a list everybody sees his part; a new one's workspace is in the body.
		"list-filesystems":    anywhere(viewer),
		"create-filesystem":   anywhere(admin),
		"show-filesystem":     seeing(inFileSystem(viewer)),
		"change-filesystem":   inFileSystem(admin),
		"delete-filesystem":   inFileSystem(admin),
		"undelete-filesystem": inFileSystem(admin),
		"list-exports":        inFileSystem(viewer),
		"create-export":       inFileSystem(admin),
		"delete-export":       inFileSystem(admin),
		"list-quotas":         inFileSystem(viewer),
		"set-quota":           inFileSystem(admin),
		"find-directory":      inFileSystem(viewer),

		// Accounts.
		"log-in":           {open: true},
		"log-out":          {open: true},
		"who-am-i":         anywhere(viewer),
		"list-workspaces":  anywhere(viewer),
		"show-workspace":   seeing(inWorkspace(viewer)),
		"create-workspace": inCluster(admin),
		"change-workspace": inCluster(admin),
		"delete-workspace": inCluster(admin),
		"list-tokens":      anywhere(admin),
		"create-token":     anywhere(admin),
		"revoke-token":     anywhere(admin),

		// Files.
		"list-files":     atPath(viewer),
		"stat-file":      atPath(viewer),
		"download-file":  atPath(viewer),
		"checksum-file":  atPath(viewer),
		"archive-files":  atPath(viewer),
		"make-directory": entryAt(editor, "path"),
		"rename-file":    entryAt(editor, "path", "to"),
		"change-file":    atPath(editor),
		"delete-file":    entryAt(editor, "path"),
		"upload-file":    entryAt(editor, "path"),

		// Uploads in pieces, whose paths are in metadata or records, and jobs: the handler looks further.
		"describe-uploads": {open: true},
		"begin-upload":     seeing(inFileSystem(editor)),
		"show-upload":      seeing(inFileSystem(editor)),
		"continue-upload":  seeing(inFileSystem(editor)),
		"end-upload":       seeing(inFileSystem(editor)),
		"list-jobs":        anywhere(viewer),
		"show-job":         anywhere(viewer),
		"cancel-job":       anywhere(editor),
		"start-import":     atPath(editor),
	}
}
