import { Anchor, Badge, Skeleton, Table, Text, Tooltip } from "@mantine/core";
import { Link } from "wouter";
import type { FileSystem } from "../api/client";
import { count } from "../format";
import { DiskIcon } from "../icons";
import { Head, Trouble, Usage } from "../parts";
import { encodeName } from "../path";
import { unreachable, useFileSystem, useFileSystems, useWorkspace } from "../workspace";

const kinds: Record<string, { color: string; text: string }> = {
  shared: { color: "blue", text: "In the shared part of the cluster, for every workload of the workspace" },
  group: { color: "grape", text: "Only on the nodes of its node group, served by its gateways" },
  local: { color: "gray", text: "On each node's own disk, unreplicated" },
};

export const filesLink = (fs: { workspace: string; name: string }) => `/files/${encodeName(fs.workspace)}/${encodeName(fs.name)}`;

export default function FileSystems() {
  const workspace = useWorkspace();
  const list = useFileSystems();
  const shown = (list.data ?? []).filter((f) => f.workspace === workspace);
  return (
    <>
      <Head title="File systems" text={workspace === "default" ? undefined : `Workspace ${workspace}`} />
      {list.isError && <Trouble what="The file systems cannot be listed" error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && <Skeleton h={160} />}
      {list.isSuccess && shown.length === 0 && <Text c="dimmed">There is none in the workspace {workspace}. An administrator makes one with rackfs fs create.</Text>}
      {shown.length > 0 && (
        <Table.ScrollContainer minWidth={680}>
          <Table verticalSpacing="sm" highlightOnHover data-test="filesystems">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Name</Table.Th>
                <Table.Th>Kind</Table.Th>
                <Table.Th>Node group</Table.Th>
                <Table.Th>Protection</Table.Th>
                <Table.Th w={210}>Used</Table.Th>
                <Table.Th ta="right">Files</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>{shown.map((f) => <Row key={f.id} fs={f} />)}</Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </>
  );
}

function Row({ fs }: { fs: FileSystem }) {
  const why = unreachable(fs);
  const detail = useFileSystem(fs.state === "active" ? { workspace: fs.workspace, fs: fs.name } : null);
  const d = detail.data;
  const total = (d?.nodes ?? []).reduce((n, v) => n + v.total_bytes, 0);
  const free = (d?.nodes ?? []).reduce((n, v) => n + v.free_bytes, 0);
  const kind = kinds[fs.kind];
  return (
    <Table.Tr className={why ? "greyed" : undefined} data-test={"fs-" + fs.name}>
      <Table.Td>
        {why ? (
          <>
            <Text fw={600} aria-disabled>{fs.name}</Text>
            <Text size="xs" maw={420}>{why}</Text>
          </>
        ) : (
          <Anchor component={Link} href={filesLink(fs)} fw={600}>
            <span className="withicon"><DiskIcon /> {fs.name}</span>
          </Anchor>
        )}
        {fs.read_only && <Badge size="xs" variant="outline" ml={6}>read-only</Badge>}
      </Table.Td>
      <Table.Td><Tooltip label={kind?.text ?? fs.kind}><Badge variant="light" color={kind?.color ?? "gray"} tabIndex={0}>{fs.kind}</Badge></Tooltip></Table.Td>
      <Table.Td>{fs.group ?? "shared"}</Table.Td>
      <Table.Td>{fs.profile ? <Tooltip label="Data and parity shards of each block"><Text size="sm" span>{fs.profile}</Text></Tooltip> : "none"}</Table.Td>
      <Table.Td>
        {fs.state !== "active" ? "" : detail.isPending ? <Skeleton h={16} /> : fs.kind === "local" ? (
          <Usage used={total - free} of={total} label={`Used of ${fs.name} on all its nodes`} />
        ) : (
          <Usage used={d?.used_bytes ?? 0} of={fs.quota_bytes ?? 0} label={`Used of the quota of ${fs.name}`} />
        )}
      </Table.Td>
      <Table.Td ta="right">
        {fs.kind !== "local" && d && count(d.used_inodes)}
        {fs.kind !== "local" && !!fs.quota_inodes && <Text span c="dimmed" size="sm"> of {count(fs.quota_inodes)}</Text>}
      </Table.Td>
    </Table.Tr>
  );
}
