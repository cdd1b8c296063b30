import { Alert, Badge, Group, HoverCard, Progress, Select, Skeleton, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { call, type ClusterStatus, type Schemas } from "../api/client";
import { bytes, count, duration, percent, plural, time } from "../format";
import { Head, Trouble, Usage } from "../parts";

type Store = Schemas["StoreStatus"];
type Node = Schemas["NodeStatus"];
type Pool = Schemas["PoolStatus"];

const poll = 3000;
const colors = ["grape", "orange", "cyan", "pink", "lime", "indigo", "yellow"];
const shared = "shared";

/** Nodes by zone and rack. */
function byRack(nodes: Node[]): { name: string; nodes: Node[] }[] {
  const racks = new Map<string, Node[]>();
  for (const n of nodes) {
    const name = [n.zone, n.rack].filter((x) => x).join(" / ") || "no rack";
    racks.set(name, [...(racks.get(name) ?? []), n]);
  }
  return [...racks].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })).map(([name, list]) => ({ name, nodes: list }));
}

/** How fast slots are filled, by what was seen since the page was opened, or since there were more than before. */
function useRates(pools: Pool[]): Map<number, { from: number; eta?: number }> {
  const seen = useRef(new Map<number, { from: number; at: number }>());
  const out = new Map<number, { from: number; eta?: number }>();
  const now = Date.now();
  for (const p of pools) {
    let s = seen.current.get(p.id);
    if (!s || p.filling > s.from || p.filling === 0) {
      s = { from: p.filling, at: now };
      seen.current.set(p.id, s);
    }
    const done = s.from - p.filling;
    out.set(p.id, { from: s.from, eta: done > 0 ? (p.filling * (now - s.at)) / 1000 / done : undefined });
  }
  return out;
}

export default function Cluster() {
  const status = useQuery({ queryKey: ["cluster"], queryFn: ({ signal }) => call("cluster-status", "GET", "/cluster/status", undefined, signal), refetchInterval: poll });
  const groups = useQuery({ queryKey: ["groups"], queryFn: async ({ signal }) => (await call("list-groups", "GET", "/groups", undefined, signal)).groups ?? [], refetchInterval: 5 * poll });
  return (
    <>
      <Head title="Cluster" text={status.data && <>Id {status.data.cluster}</>} />
      {status.isError && <Trouble what="The cluster's state is not known" error={status.error} retry={() => void status.refetch()} />}
      {status.isPending && <Skeleton h={260} />}
      {status.data && <Status st={status.data} groups={groups.data ?? []} />}
    </>
  );
}

function Status({ st, groups }: { st: ClusterStatus; groups: Schemas["Group"][] }) {
  const stores = st.placement?.stores ?? [];
  const pools = st.placement?.pools ?? [];
  const capacity = stores.filter((s) => !s.gone).reduce((n, s) => n + s.capacity, 0);
  const used = stores.filter((s) => !s.gone).reduce((n, s) => n + s.used, 0);
  const ok = st.health === "ok";
  return (
    <Stack gap="lg">
      <Alert color={ok ? "teal" : "yellow"} title={ok ? "Healthy" : "Degraded"} role="status" data-test="health">
        {ok ? "All nodes, stores and pools are as they should be." : <ul className="names">{st.health.replace(/^degraded: /, "").split("; ").map((x, i) => <li key={i} className="wrap">{x}</li>)}</ul>}
      </Alert>
      {(st.notes ?? []).map((n) => <Alert key={n} color="blue">{n}</Alert>)}
      <Group gap="xl">
        <Number label="Nodes" value={count((st.nodes ?? []).length)} />
        <Number label="Stores" value={count(stores.filter((s) => !s.gone).length)} />
        <div style={{ minWidth: 240 }}>
          <Text size="sm" c="dimmed">Raw capacity used</Text>
          <Usage used={used} of={capacity} label="Raw capacity used" />
        </div>
        {(st.shards ?? []).map((s) => <Number key={s.shard} label={s.shard === 0 ? "Cluster map led by" : `Namespace ${s.shard} led by`} value={s.leader} more={plural((s.voters ?? []).length, "voter")} />)}
      </Group>
      <Pools pools={pools} stores={stores} />
      <Picture nodes={st.nodes ?? []} stores={stores} pools={pools} groups={groups} />
    </Stack>
  );
}

function Number({ label, value, more }: { label: string; value: string; more?: string }) {
  return (
    <div>
      <Text size="sm" c="dimmed">{label}</Text>
      <Text fw={600} className="wrap">{value} {more && <Text span size="sm" c="dimmed" fw={400}>{more}</Text>}</Text>
    </div>
  );
}

function Pools({ pools, stores }: { pools: Pool[]; stores: Store[] }) {
  const rates = useRates(pools);
  const moving = stores.filter((s) => s.moving && s.moving.slots_left > 0);
  return (
    <section>
      <Title order={2} size="h4" mb="xs">Pools</Title>
      <Table.ScrollContainer minWidth={720}>
        <Table data-test="pools">
          <Table.Thead><Table.Tr><Table.Th>Pool</Table.Th><Table.Th>Node group</Table.Th><Table.Th>Protection</Table.Th><Table.Th>New blocks</Table.Th><Table.Th>Repair</Table.Th><Table.Th>If one more store is lost</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>
            {pools.map((p) => {
              const r = rates.get(p.id);
              const lacks = p.filling + p.waiting;
              return (
                <Table.Tr key={p.id}>
                  <Table.Td fw={600}>{p.name}</Table.Td>
                  <Table.Td>{p.group || shared}</Table.Td>
                  <Table.Td>{p.profile}, <Text span size="sm" c={p.margin < 1 ? "red" : "dimmed"}>{p.margin < 0 ? "blocks unreadable" : `survives ${plural(p.margin, "loss", "losses")} now`}</Text></Table.Td>
                  <Table.Td>{p.writes === "" ? <Badge color="red" variant="light">wait</Badge> : p.writes === p.profile ? p.writes : <Badge color="yellow" variant="light">{p.writes} for now</Badge>}</Table.Td>
                  <Table.Td miw={190}>
                    {lacks === 0 ? <Text size="sm" c="dimmed">nothing to repair</Text> : (
                      <>
                        <Progress value={percent((r?.from ?? 0) - p.filling, r?.from ?? 0)} aria-label={`Repair of ${p.name}`} />
                        <Text size="xs">{plural(p.filling, "slot")} to fill{r?.eta !== undefined && `, about ${duration(r.eta)}`}{p.waiting > 0 && `, ${count(p.waiting)} have nowhere to go`}</Text>
                      </>
                    )}
                  </Table.Td>
                  <Table.Td><Text size="sm" className="wrap">{p.next_loss}</Text></Table.Td>
                </Table.Tr>
              );
            })}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {moving.map((s) => s.moving && (
        <Alert key={s.id} color="blue" mt="xs" title={`Store ${s.id} of ${s.node} is being emptied`}>
          <Progress value={percent(s.moving.slots_then - s.moving.slots_left, s.moving.slots_then)} aria-label={`Emptying store ${s.id}`} mb={4} />
          {count(s.moving.slots_left)} of {plural(s.moving.slots_then, "slot")} left, about {bytes(s.moving.bytes_left)}{s.moving.eta_s > 0 ? `, ${duration(s.moving.eta_s)} at this rate` : ""}
        </Alert>
      ))}
    </section>
  );
}

/** Racks with their nodes and stores: whose they are, how full, how many slots of placement groups each has, and what ails them. */
function Picture({ nodes, stores, pools, groups }: { nodes: Node[]; stores: Store[]; pools: Pool[]; groups: Schemas["Group"][] }) {
  const [pool, setPool] = useState("");
  const names = [...new Set([...groups.map((g) => g.name), ...nodes.map((n) => n.group ?? "").filter((g) => g !== "")])].sort();
  const color = (group: string) => (group === "" ? "blue" : (colors[names.indexOf(group) % colors.length] ?? "gray"));
  const reserved = new Map(groups.flatMap((g) => (g.racks ?? []).map((r) => [r.name, g.name] as const)));
  const ofNode = new Map<string, Store[]>();
  for (const s of stores) if (!s.gone) ofNode.set(s.node, [...(ofNode.get(s.node) ?? []), s]);
  const chosen = pools.find((p) => String(p.id) === pool);
  return (
    <section>
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h4">Racks</Title>
        <Select size="xs" aria-label="Show the stores of a pool" allowDeselect={false} value={pool} onChange={(v) => setPool(v ?? "")} data={[{ value: "", label: "Stores of all pools" }, ...pools.map((p) => ({ value: String(p.id), label: `Stores of ${p.name} (${p.profile})` }))]} />
      </Group>
      <Group gap="md" mb="xs">
        {["", ...names].map((g) => <span key={g} className="withicon"><Badge size="xs" circle color={color(g)} /> <Text size="xs">{g || shared}</Text></span>)}
        <Text size="xs" c="dimmed">Squares are stores: filled by use, with their number and their slots.</Text>
      </Group>
      <div className="racks" data-test="racks">
        {byRack(nodes).map((r) => {
          const owner = reserved.get(r.nodes[0]?.rack ?? "");
          return (
            <div key={r.name} className="rack" role="group" aria-label={`Rack ${r.name}`} style={{ "--rack": `var(--mantine-color-${color(owner ?? "")}-5)` } as React.CSSProperties}>
              <Group justify="space-between"><Text fw={600}>{r.name}</Text>{owner && <Badge size="xs" color={color(owner)}>reserved for {owner}</Badge>}</Group>
              {r.nodes.map((n) => (
                <div key={n.name} className="node">
                  <Group justify="space-between" wrap="nowrap">
                    <Text size="sm" className="wrap">{n.name}</Text>
                    <Group gap={4} wrap="nowrap">
                      {n.life && n.life !== "in" && <Badge size="xs" color="yellow">{n.life}</Badge>}
                      {n.group && <Badge size="xs" variant="light" color={color(n.group)}>{n.group}</Badge>}
                      <Badge size="xs" variant={n.state === "ok" ? "light" : "filled"} color={n.state === "ok" ? "teal" : "red"}>{n.state === "ok" ? "ok" : "trouble"}</Badge>
                    </Group>
                  </Group>
                  <Text size="xs" c="dimmed" className="wrap">{(n.roles ?? []).join(", ")}{n.release ? `, ${n.release}` : ""}</Text>
                  {n.state !== "ok" && <Text size="xs" c="red" className="wrap">{n.state}</Text>}
                  {(ofNode.get(n.name) ?? []).length > 0 && (
                    <div className="stores">
                      {(ofNode.get(n.name) ?? []).map((s) => <StoreSquare key={s.id} s={s} color={color(n.group ?? "")} dim={chosen !== undefined && (chosen.group !== (n.group ?? "") || (owner ?? "") !== (n.group ?? ""))} />)}
                    </div>
                  )}
                  {(n.local_volumes ?? []).map((v) => (
                    <div key={v.fs}><Text size="xs">Local volume {v.fs}{v.problem && <Text span c="red"> {v.problem}</Text>}</Text><Usage used={v.total_bytes - v.free_bytes} of={v.total_bytes} label={`Used of ${v.fs} on ${n.name}`} /></div>
                  ))}
                </div>
              ))}
            </div>
          );
        })}
      </div>
    </section>
  );
}

function StoreSquare({ s, color, dim }: { s: Store; color: string; dim: boolean }) {
  const bad = s.state !== "up";
  const out = s.record !== "STORE_IN";
  const full = percent(s.used, s.capacity);
  return (
    <HoverCard width={260} openDelay={150}>
      <HoverCard.Target>
        <button type="button" className={"store" + (bad && !out ? " bad" : out ? " moving" : "")} style={{ "--store": `var(--mantine-color-${color}-5)`, opacity: dim ? 0.25 : 1 } as React.CSSProperties} aria-label={`Store ${s.id} of ${s.node}: ${s.state}, ${Math.round(full)} % used, ${plural(s.slots, "slot")}`}>
          <span className="fill" style={{ height: `${full}%` }} />
          <span style={{ fontWeight: 600 }}>{s.id}</span>
          <span>{s.slots}</span>
        </button>
      </HoverCard.Target>
      <HoverCard.Dropdown>
        <Text size="sm" fw={600}>Store {s.id} of {s.node}</Text>
        <Text size="sm">{s.state}{out ? ", being emptied" : ""} since {time(s.since)}</Text>
        <Usage used={s.used} of={s.capacity} label="Used" />
        <Text size="sm">{plural(s.slots, "slot")} of placement groups</Text>
        {s.last_error && <Text size="xs" c="red" className="wrap">{s.last_error}</Text>}
      </HoverCard.Dropdown>
    </HoverCard>
  );
}
