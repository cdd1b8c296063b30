import { Anchor, Badge, Button, Group, Progress, Skeleton, Stack, Switch, Table, Text } from "@mantine/core";
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useState } from "react";
import { Link } from "wouter";
import { call, type Job } from "../api/client";
import { addressOf } from "../files/Browser";
import { bytes, count, duration, percent, time } from "../format";
import { CloseIcon } from "../icons";
import { failed } from "../notify";
import { Dialog, Head, Trouble } from "../parts";
import { typed } from "../path";
import { useSession } from "../session";
import { useWorkspace } from "../workspace";

const colors: Record<string, string> = { queued: "gray", running: "blue", done: "teal", failed: "red", canceled: "yellow" };
const over = (j: Job) => j.state === "done" || j.state === "failed" || j.state === "canceled";
const pollBusy = 1000;
const pollIdle = 5000;

export default function Jobs() {
  const workspace = useWorkspace();
  const [active, setActive] = useState(false);
  const list = useInfiniteQuery({
    queryKey: ["jobs", workspace, active],
    queryFn: ({ pageParam, signal }) => call("list-jobs", "GET", `/jobs?limit=100&active=${active}&workspace=${encodeURIComponent(workspace)}&before=${pageParam}`, undefined, signal),
    initialPageParam: 0,
    getNextPageParam: (last) => last.next || undefined,
    refetchInterval: (q) => (q.state.data?.pages.some((p) => (p.jobs ?? []).some((j) => !over(j))) ? pollBusy : pollIdle),
  });
  const jobs = (list.data?.pages ?? []).flatMap((p) => p.jobs ?? []);
  return (
    <>
      <Head title="Jobs" text="Imports and deletions of folders. They go on when the browser is closed.">
        <Switch label="Only those that are under way" checked={active} onChange={(e) => setActive(e.currentTarget.checked)} />
      </Head>
      {list.isError && <Trouble what="The jobs cannot be listed" error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && <Skeleton h={120} />}
      {list.isSuccess && jobs.length === 0 && <Text c="dimmed">{active ? "None is under way." : "There have been none."}</Text>}
      {jobs.length > 0 && (
        <Table.ScrollContainer minWidth={820}>
          <Table verticalSpacing="sm" data-test="jobs">
            <Table.Thead>
              <Table.Tr><Table.Th>Job</Table.Th><Table.Th>What</Table.Th><Table.Th>State</Table.Th><Table.Th w={280}>Progress</Table.Th><Table.Th>Begun</Table.Th><Table.Th>By</Table.Th><Table.Th aria-label="Actions" /></Table.Tr>
            </Table.Thead>
            <Table.Tbody>{jobs.map((j) => <Row key={j.id} j={j} />)}</Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {list.hasNextPage && <Button variant="light" onClick={() => void list.fetchNextPage()} loading={list.isFetchingNextPage}>Older</Button>}
    </>
  );
}

function Row({ j }: { j: Job }) {
  const session = useSession();
  const queries = useQueryClient();
  const [asked, setAsked] = useState(false);
  const [details, setDetails] = useState(false);
  const cancel = async () => {
    setAsked(true);
    try {
      await call("cancel-job", "POST", `/jobs/${j.id}/cancel`);
    } catch (e) {
      failed(`Job ${j.id} goes on`, e);
      setAsked(false);
    }
    void queries.invalidateQueries({ queryKey: ["jobs"] });
  };
  const mayCancel = session.may("editor", j.workspace, j.file_system, j.path) && !over(j);
  return (
    <Table.Tr data-test={`job-${j.id}`} data-state={j.state}>
      <Table.Td>{j.id}</Table.Td>
      <Table.Td>
        <Text size="sm" fw={600} tt="capitalize">{j.kind}</Text>
        <Text size="sm" className="wrap"><Anchor component={Link} size="sm" href={addressOf({ workspace: j.workspace, fs: j.file_system }, j.kind === "delete" ? "/" : typed(j.path))}>{j.file_system}</Anchor>:{j.path}</Text>
      </Table.Td>
      <Table.Td><Badge color={colors[j.state]} variant="light">{j.canceling ? "canceling" : j.state}</Badge></Table.Td>
      <Table.Td><JobProgress j={j} /></Table.Td>
      <Table.Td>
        <Text size="sm">{time(j.started ?? j.created)}</Text>
        {j.started && j.finished && <Text size="xs" c="dimmed">for {duration((Date.parse(j.finished) - Date.parse(j.started)) / 1000)}</Text>}
      </Table.Td>
      <Table.Td><Text size="sm" className="wrap">{j.asked_by}</Text></Table.Td>
      <Table.Td>
        <Group gap="xs" justify="flex-end" wrap="nowrap">
          {j.kind === "import" && <Button size="compact-sm" variant="subtle" onClick={() => setDetails(true)}>Details</Button>}
          {mayCancel && <Button size="compact-sm" variant="light" color="red" leftSection={<CloseIcon size={14} />} disabled={asked || j.canceling} onClick={() => void cancel()}>Cancel</Button>}
        </Group>
        {details && <Details id={j.id} onClose={() => setDetails(false)} />}
      </Table.Td>
    </Table.Tr>
  );
}

const ImportReport = lazy(async () => ({ default: (await import("../files/ImportDialog")).ImportReport }));

/** What became of an import's objects, which lists do not have. */
function Details({ id, onClose }: { id: number; onClose: () => void }) {
  const job = useQuery({ queryKey: ["job", id], queryFn: ({ signal }) => call("show-job", "GET", `/jobs/${id}`, undefined, signal), refetchInterval: (q) => (q.state.data && over(q.state.data) ? false : pollBusy) });
  return (
    <Dialog onClose={onClose} title={`Job ${id}`} size="lg">
      {job.isPending && <Skeleton h={80} />}
      {job.isError && <Trouble what="It cannot be shown" error={job.error} />}
      {job.data && (
        <Stack>
          {job.data.import && <Text size="sm" className="wrap">From {job.data.import.from}; if a file is there: {job.data.import.conflict || "skip"}{job.data.import.dry_run ? "; counted only" : ""}</Text>}
          <JobProgress j={job.data} />
          {job.data.import && <Suspense><ImportReport r={job.data.import} /></Suspense>}
        </Stack>
      )}
    </Dialog>
  );
}

/** How far a job is; of one whose totals are not known, how much it has done. */
export function JobProgress({ j }: { j: Job }) {
  const whole = (j.bytes_total ?? 0) > 0 ? percent(j.bytes_done, j.bytes_total ?? 0) : (j.items_total ?? 0) > 0 ? percent(j.items_done, j.items_total ?? 0) : undefined;
  return (
    <Stack gap={4}>
      {!over(j) && <Progress value={whole ?? 100} animated={whole === undefined && j.state === "running"} striped={whole === undefined} aria-label={`Progress of job ${j.id}`} />}
      <Text size="sm">
        {count(j.items_done)}{j.items_total ? ` of ${count(j.items_total)}` : ""} items
        {(j.bytes_done > 0 || (j.bytes_total ?? 0) > 0) && `, ${bytes(j.bytes_done)}${j.bytes_total ? ` of ${bytes(j.bytes_total)}` : ""}`}
        {!!j.items_failed && <Text span c="red">, {count(j.items_failed)} failed</Text>}
      </Text>
      {j.note && !over(j) && <Text size="xs" c="dimmed" className="wrap">{j.note}</Text>}
      {j.error && <Text size="xs" c="red" className="wrap">{j.error}</Text>}
    </Stack>
  );
}
