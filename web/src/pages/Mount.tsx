import { Alert, Checkbox, Select, SimpleGrid, Skeleton, Stack, Tabs, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { call, fileAddress, Refusal, type FileSystem } from "../api/client";
import { command, fstab, kubernetes, type Wish } from "../mounts";
import { Copyable, Head, Trouble } from "../parts";
import { typed } from "../path";
import { useFileSystem, useFileSystems, useWorkspace } from "../workspace";

const anywhere = "";
/** What a volume claims without a quota. */
const claim = 2 ** 40;

const nears: Record<string, string> = { node: "this node", rack: "this rack", zone: "this zone", cluster: "elsewhere" };

/** How workloads mount: where they run, which file system, what of it, and where. */
export default function Mount() {
  const workspace = useWorkspace();
  const list = useFileSystems();
  const mine = (list.data ?? []).filter((f) => f.workspace === workspace && f.state === "active");
  const groups = [...new Set(mine.map((f) => f.group ?? "").filter((g) => g !== ""))].sort();
  const [group, setGroup] = useState(anywhere);
  const [name, setName] = useState<string | null>(null);
  const inGroup = groups.includes(group) ? group : anywhere;
  const offered = mine.filter((f) => f.kind === "shared" || (f.kind === "group" && (inGroup === anywhere || f.group === inGroup)) || (f.kind === "local" && f.group === inGroup));
  const fs = offered.find((f) => f.name === name) ?? offered[0];
  return (
    <>
      <Head title="Mount" text="What to type, or apply, so that a workload has a file system." />
      {list.isError && <Trouble what="The file systems cannot be listed" error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && <Skeleton h={200} />}
      {list.isSuccess && (
        <Stack maw={900}>
          <SimpleGrid cols={{ base: 1, sm: 2 }}>
            <Select
              label="Node group" description="Where the workload runs; local volumes appear for a group" allowDeselect={false} value={inGroup} onChange={(v) => setGroup(v ?? anywhere)} data-test="mount-group"
              data={[{ value: anywhere, label: "Any node" }, ...groups.map((g) => ({ value: g, label: g }))]}
            />
            <Select label="File system" description="Of the workspace, for that group" allowDeselect={false} value={fs?.name ?? null} onChange={setName} data={offered.map((f) => ({ value: f.name, label: `${f.name} (${f.kind})` }))} data-test="mount-fs" />
          </SimpleGrid>
          {fs ? <Instructions key={fs.id} fs={fs} /> : <Text c="dimmed">There is none for that group.</Text>}
        </Stack>
      )}
    </>
  );
}

function Instructions({ fs }: { fs: FileSystem }) {
  const at = { workspace: fs.workspace, fs: fs.name };
  const detail = useFileSystem(at);
  const [from, setFrom] = useState("");
  const [target, setTarget] = useState("/mnt/" + fs.name);
  const [readOnly, setReadOnly] = useState(fs.read_only === true);
  const [server, setServer] = useState<string | null>(null);
  const local = fs.kind === "local";
  const servers = local
    ? (detail.data?.nodes ?? []).map((n) => ({ value: n.address, label: `${n.node} (${n.address})`, node: n.node as string | undefined }))
    : (detail.data?.servers ?? []).map((s) => ({ value: s.address, label: `${s.node ?? "gateway"} (${s.address}${s.node ? ", " + (nears[s.near] ?? s.near) : ""})`, node: undefined }));
  const chosen = servers.find((s) => s.value === server) ?? servers[0];
  useEffect(() => setServer(null), [fs.id]);

  const sub = from === "" ? "/" : typed(from);
  const [asked] = useDebouncedValue(sub, 300);
  const there = useQuery({
    queryKey: ["mount-from", fs.id, asked],
    queryFn: ({ signal }) => call("stat-file", "GET", fileAddress(at, "/stat", asked), undefined, signal),
    enabled: !local && asked !== "/",
    retry: false,
  });
  let wrong: string | undefined;
  // The same words as filesystem.MountFrom.
  if (local && sub !== "/") wrong = `${fs.name} is of kind local, which is mounted whole: the disk is its node's, and what a job leaves in a directory is the next job's too. Mount ${fs.name} and use the directory in it.`;
  else if (from !== "" && !from.startsWith("/")) wrong = "Write it from the root of the file system, such as /datasets.";
  else if (asked === sub && there.error instanceof Refusal && (there.error.status === 404 || there.error.status === 400)) wrong = there.error.message;
  else if (asked === sub && there.data && sub !== "/" && there.data.type !== "directory") wrong = "This is not a folder.";
  const badTarget = target.startsWith("/") && !/[\n\0]/.test(target) ? undefined : "Name the directory from the root, such as /mnt/data.";
  const wish: Wish | undefined = chosen && {
    name: fs.name, address: chosen.value, path: fs.path + (sub === "/" ? "" : "/" + from.split("/").filter((p) => p !== "").join("/")), target, readOnly, node: chosen.node,
    size: fs.quota_bytes || claim,
  };
  return (
    <>
      <SimpleGrid cols={{ base: 1, sm: 2 }}>
        <TextInput label="Mount from" description={local ? "Local volumes are mounted whole" : "A folder of it; empty: all of it"} placeholder="/" value={from} onChange={(e) => setFrom(e.currentTarget.value)} error={wrong} errorProps={{ role: "alert" }} autoComplete="off" spellCheck={false} data-test="mount-from" />
        <TextInput label="Mount as" description="A directory of the machine or of the container" value={target} onChange={(e) => setTarget(e.currentTarget.value)} error={badTarget} autoComplete="off" spellCheck={false} data-test="mount-as" />
        {servers.length > 1 && <Select label={local ? "Node" : "Server"} description={local ? "Each has files of its own" : "The nearest is first"} allowDeselect={false} data={servers.map(({ value, label }) => ({ value, label }))} value={chosen?.value ?? null} onChange={setServer} />}
      </SimpleGrid>
      <Checkbox label="Read-only" checked={readOnly} disabled={fs.read_only} onChange={(e) => setReadOnly(e.currentTarget.checked)} />
      {fs.unreplicated && <Alert color="yellow">It is {fs.unreplicated}. Only workloads on {chosen?.node ?? "the node"} reach it there.</Alert>}
      {detail.isError && <Trouble what="Who serves it cannot be asked" error={detail.error} retry={() => void detail.refetch()} />}
      {detail.isSuccess && !chosen && <Alert color="yellow">Nobody serves it now.</Alert>}
      {wish && !wrong && !badTarget && (
        <Tabs defaultValue="command" keepMounted={false}>
          <Tabs.List>
            <Tabs.Tab value="command">Command</Tabs.Tab>
            <Tabs.Tab value="fstab">/etc/fstab</Tabs.Tab>
            <Tabs.Tab value="kubernetes">Kubernetes</Tabs.Tab>
          </Tabs.List>
          <Tabs.Panel value="command" pt="sm">
            <Stack gap="xs">
              <Text size="sm">As root, with Debian&apos;s package nfs-common or its equivalent:</Text>
              <Copyable text={command(wish)} label="command" test="mount-command" />
              <Text size="sm" c="dimmed">On a node of the cluster, rackfs mount chooses the nearest server and these options itself.</Text>
            </Stack>
          </Tabs.Panel>
          <Tabs.Panel value="fstab" pt="sm"><Copyable text={fstab(wish)} label="line" test="mount-fstab" /></Tabs.Panel>
          <Tabs.Panel value="kubernetes" pt="sm">
            <Stack gap="xs">
              <Text size="sm">For clusters that have csi-driver-nfs:</Text>
              <Copyable text={kubernetes(wish)} label="YAML" test="mount-yaml" />
            </Stack>
          </Tabs.Panel>
        </Tabs>
      )}
    </>
  );
}
