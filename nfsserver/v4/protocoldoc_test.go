package v4

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

const protocolDoc = "../../docs/protocol.md"

// The last operation and attribute of RFC 8881, 7862, 8275 and 8276; a newer one that the server knows is looked for too.
const (
	lastOperation = 75
	lastAttribute = 82
)

// docRow is a row of a table of the documentation: a number, a name, the answers of minor versions 1 and 2.
type docRow struct {
	name    string
	answers [2]string
}

// docTable reads the table below a heading.
func docTable(t *testing.T, heading string) map[int]docRow {
	t.Helper()
	b, err := os.ReadFile(protocolDoc)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", protocolDoc, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	rows := map[int]docRow{}
	names := map[string]bool{}
	last := -1
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 7 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		n, err := strconv.Atoi(cells[1])
		if err != nil {
			continue // the head
		}
		if n <= last || cells[2] == "" || names[cells[2]] {
			t.Errorf("%s: row %d, %q: a number or a name comes twice or out of order", heading, n, cells[2])
		}
		last, names[cells[2]] = n, true
		rows[n] = docRow{cells[2], [2]string{cells[3], cells[4]}}
	}
	return rows
}

// refusesAlways are operations that are carried out and have no arguments that could succeed.
var refusesAlways = map[nfsv4.NfsOpnum4]string{
	nfsv4.OP_SET_SSV: "NFS4ERR_INVAL",
}

// TestOperationsAreDocumented compares docs/protocol.md with the table of operations, both ways.
func TestOperationsAreDocumented(t *testing.T) {
	names := map[nfsv4.NfsOpnum4]string{
		opGetXattr: "OP_GETXATTR", opSetXattr: "OP_SETXATTR", opListXattrs: "OP_LISTXATTRS", opRemoveXattr: "OP_REMOVEXATTR",
	}
	for op, name := range nfsv4.NfsOpnum4_name {
		names[op] = name
	}
	refused := reflect.ValueOf(notSupported).Pointer()
	rows := docTable(t, "Operations")
	for n := range max(lastOperation+1, len(opTable)) {
		op := nfsv4.NfsOpnum4(n)
		row, ok := rows[n]
		if exists := op >= nfsv4.OP_ACCESS; ok != exists {
			t.Errorf("operation %d, %s: in the table: %v", n, names[op], ok)
		}
		if !ok {
			continue
		}
		if names[op] != "OP_"+row.name {
			t.Errorf("operation %d is %s, not %s", n, names[op], row.name)
		}
		for i, got := range row.answers {
			def := lookupOp(op, uint32(i+1))
			want := "yes"
			switch {
			case def == nil:
				want = "NFS4ERR_OP_ILLEGAL"
			case reflect.ValueOf(def.run).Pointer() == refused:
				want = "NFS4ERR_NOTSUPP"
			case refusesAlways[op] != "":
				want = refusesAlways[op]
			}
			if got != want {
				t.Errorf("minor version %d, %s: documented as %s, is %s", i+1, row.name, got, want)
			}
		}
		delete(rows, n)
	}
	for n, row := range rows {
		t.Errorf("operation %d, %s, is in the table and does not exist", n, row.name)
	}
}

// TestAttributesAreDocumented compares docs/protocol.md with the attributes that are supported and settable, both ways.
func TestAttributesAreDocumented(t *testing.T) {
	rows := docTable(t, "Attributes")
	for n := range unknownAttr {
		row, ok := rows[n]
		known := supported42.has(n) || supported41.has(n)
		if exists := n <= lastAttribute || known; ok != exists {
			t.Errorf("attribute %d: in the table: %v", n, ok)
		}
		if !ok {
			continue
		}
		for i, got := range row.answers {
			all := supported(uint32(i + 1))
			want := "read"
			switch {
			case !all.has(n):
				want = "no"
			case writeOnly.has(n):
				want = "set"
			case settable.has(n):
				want = "read, set"
			}
			if got != want {
				t.Errorf("minor version %d, attribute %d, %s: documented as %q, is %q", i+1, n, row.name, got, want)
			}
		}
		delete(rows, n)
	}
	for n, row := range rows {
		t.Errorf("attribute %d, %s, is in the table and does not exist", n, row.name)
	}
}
