package kclient

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one mount inside a guest, in the terms of mount(2). The target folder is made if it is missing.
type Mount struct {
	Type, Source, Target string
	Flags                uintptr // unix.MS_*
	Data                 string
}

// NFS is a hard NFSv4 mount as mount.nfs would ask the kernel for it. Later options override earlier ones.
func NFS(server string, port int, export, target, version string, options ...string) Mount {
	data := append([]string{"vers=" + version, "proto=tcp", "hard", "sec=sys", fmt.Sprintf("port=%d", port), "addr=" + server}, options...)
	return Mount{Type: "nfs4", Source: server + ":" + export, Target: target, Data: strings.Join(data, ",")}
}

// NFS3 is a hard mount of a read-only NFSv3 server that has the MOUNT protocol on the same port, and no locks. The mount itself may be
// written to, so that it is the server that refuses; set Flags for another one.
func NFS3(server string, port int, export, target string, options ...string) Mount {
	data := append([]string{
		"vers=3", "nolock", "proto=tcp", "mountproto=tcp", "mountvers=3", "hard", "sec=sys",
		fmt.Sprintf("port=%d", port), fmt.Sprintf("mountport=%d", port), "addr=" + server, "mountaddr=" + server,
	}, options...)
	return Mount{Type: "nfs", Source: server + ":" + export, Target: target, Data: strings.Join(data, ",")}
}

func (m Mount) mount() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mount -t %s -o %s %s %s: %w", m.Type, m.Data, m.Source, m.Target, err)
	}
	return nil
}

func unmount(target string) error {
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("umount %s: %w", target, err)
	}
	return nil
}
