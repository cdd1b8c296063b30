package node

import (
	"os"
	"strings"
	"testing"
)

// The unit that is shipped runs the command that there is, with the configuration file that is its default.
func TestUnit(t *testing.T) {
	b, err := os.ReadFile("../../dist/rackfs-node.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ExecStart=/usr/local/bin/rackfs node --config /etc/rackfs/node.yaml\n", "ReadWritePaths=/var/lib/rackfs "} {
		if !strings.Contains(string(b), line) {
			t.Errorf("the unit lacks %q", line)
		}
	}
}
