package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// FileSystem is a file system of the cluster.
type FileSystem struct {
	ID        uint32    `json:"id" doc:"Never used again"`
	Name      string    `json:"name"`
	Workspace string    `json:"workspace"`
	Kind      string    `json:"kind" enum:"shared,group,local"`
	State     string    `json:"state" enum:"creating,active,deleted,purging"`
	Pool      uint32    `json:"pool" doc:"Id of the pool that holds its data; 0 for kind local"`
	Created   time.Time `json:"created"`
}

// FileSystems is the answer to a list.
type FileSystems struct {
	FileSystems []FileSystem `json:"file_systems"`
}

type fileSystemsOutput struct{ Body FileSystems }

func (a *API) fileSystems() {
	handle(a, "GET /filesystems", "list-filesystems", "List the file systems", a.listFileSystems)
}

func (a *API) listFileSystems(ctx context.Context, _ *struct{}) (*fileSystemsOutput, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	if err != nil {
		return nil, err
	}
	out := &fileSystemsOutput{Body: FileSystems{FileSystems: []FileSystem{}}}
	for _, fs := range r.GetFileSystems().GetFileSystems() {
		out.Body.FileSystems = append(out.Body.FileSystems, FileSystem{
			ID: fs.Id, Name: fs.Name, Workspace: fs.Workspace, Kind: fs.Kind, Pool: fs.Pool,
			State:   strings.ToLower(strings.TrimPrefix(fs.State.String(), "FS_")),
			Created: time.Unix(fs.GetCreated().GetSec(), int64(fs.GetCreated().GetNsec())).UTC(),
		})
	}
	return out, nil
}

// FileSystems lists the file systems.
func (c *Client) FileSystems(ctx context.Context) ([]FileSystem, error) {
	var out FileSystems
	return out.FileSystems, c.call(ctx, http.MethodGet, "/filesystems", nil, &out)
}
