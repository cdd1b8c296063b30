import { Alert, Anchor, Button, Collapse, Group, SegmentedControl, Select, Stack, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { Link } from "wouter";
import { call, fileAddress, type Job, type Place, type Schemas } from "../api/client";
import { bytes, plural } from "../format";
import { JobProgress } from "../pages/Jobs";
import { Dialog } from "../parts";
import { shownPath, typed } from "../path";

const poll = 700;
type Source = "s3" | "r2";
const over = (j: Job | undefined) => j?.state === "done" || j?.state === "failed" || j?.state === "canceled";

/**
 * Imports the objects of a bucket. The keys are in the fields of this form until it is sent or closed, and nowhere else: they are no passwords that a
 * browser would offer to keep, and the API tells them to nobody.
 */
export default function ImportDialog({ at, path, onClose }: { at: Place; path: string; onClose: () => void }) {
  const queries = useQueryClient();
  const [source, setSource] = useState<Source>("s3");
  const [bucket, setBucket] = useState("");
  const [endpoint, setEndpoint] = useState("");
  const [access, setAccess] = useState("");
  const [secret, setSecret] = useState("");
  const [dest, setDest] = useState(shownPath(path));
  const [region, setRegion] = useState("");
  const [session, setSession] = useState("");
  const [prefix, setPrefix] = useState("");
  const [conflict, setConflict] = useState("skip");
  const [more, setMore] = useDisclosure(false);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState<"" | "check" | "import">("");
  const [check, setCheck] = useState<number | null>(null);
  const [job, setJob] = useState<number | null>(null);
  const checked = useJob(check);
  const running = useJob(job);

  const start = async (dry: boolean) => {
    setError("");
    if (!dest.startsWith("/")) return setError("Write the destination from the root of the file system, such as /data.");
    setBusy(dry ? "check" : "import");
    const body: Schemas["NewImport"] = { source, bucket: bucket.trim(), access_key: access.trim(), secret_key: secret.trim(), conflict: conflict as "skip", dry_run: dry };
    if (endpoint.trim() !== "") body.endpoint = endpoint.trim();
    if (region.trim() !== "") body.region = region.trim();
    if (session.trim() !== "") body.session_token = session.trim();
    if (prefix !== "") body.prefix = prefix;
    try {
      const j = await call("start-import", "POST", fileAddress(at, "/imports", typed(dest)), body);
      if (dry) setCheck(j.id);
      else {
        // They are the job's now.
        setAccess("");
        setSecret("");
        setSession("");
        setJob(j.id);
        void queries.invalidateQueries({ queryKey: ["jobs"] });
      }
    } catch (e) {
      setError((e as Error).message);
    } finally {
      setBusy("");
    }
  };
  const submit = (e: FormEvent) => {
    e.preventDefault();
    void start(false);
  };
  const changed = <T,>(set: (v: T) => void) => (v: T) => {
    set(v);
    setCheck(null);
    setError("");
  };
  // No list of what was typed before, and no correction, which some browsers send elsewhere.
  const plain = { autoComplete: "off", autoCorrect: "off", autoCapitalize: "off", spellCheck: false } as const;
  if (job !== null) {
    return (
      <Dialog onClose={onClose} title="Import from cloud" size="lg">
        <Stack data-test="import-running" data-state={running.data?.state}>
          <Text size="sm">From {running.data?.import?.from ?? bucket} to {dest}. It goes on when this is closed; <Anchor component={Link} href="/jobs" size="sm">Jobs</Anchor> shows it.</Text>
          {running.data && <JobProgress j={running.data} />}
          {running.data?.import && over(running.data) && <ImportReport r={running.data.import} />}
          {running.isError && <Alert color="red" role="alert">{running.error.message}</Alert>}
          <Group justify="flex-end"><Button onClick={onClose} data-test="import-close">Close</Button></Group>
        </Stack>
      </Dialog>
    );
  }
  return (
    <Dialog onClose={onClose} title="Import from cloud" size="lg" closeOnClickOutside={false}>
      <form onSubmit={submit} autoComplete="off" data-test="import-form">
        <Stack>
          <SegmentedControl aria-label="Where from" fullWidth value={source} onChange={(v) => changed(setSource)(v as Source)} data={[{ value: "s3", label: "AWS S3" }, { value: "r2", label: "Cloudflare R2" }]} />
          <TextInput label="Bucket Name" required value={bucket} onChange={(e) => changed(setBucket)(e.currentTarget.value)} {...plain} data-autofocus data-test="import-bucket" />
          {source === "r2" && <TextInput label="Endpoint URL" description="Without the bucket's name" placeholder="https://ACCOUNT.r2.cloudflarestorage.com" required value={endpoint} onChange={(e) => changed(setEndpoint)(e.currentTarget.value)} {...plain} data-test="import-endpoint" />}
          <TextInput label="Access Key ID" required value={access} onChange={(e) => changed(setAccess)(e.currentTarget.value)} {...plain} data-test="import-access" />
          <TextInput label="Secret Access Key" required value={secret} onChange={(e) => changed(setSecret)(e.currentTarget.value)} {...plain} classNames={{ input: "secret" }} data-test="import-secret" />
          <TextInput label="Destination Path" description={`A folder in ${at.fs}; it is made if it does not exist`} required value={dest} onChange={(e) => changed(setDest)(e.currentTarget.value)} {...plain} data-test="import-dest" />
          <div>
            <Button size="compact-sm" variant="subtle" onClick={setMore.toggle} aria-expanded={more} data-test="import-more">{more ? "Fewer options" : "More options"}</Button>
            <Collapse expanded={more}>
              <Stack mt="xs">
                {source === "s3" && <TextInput label="Endpoint URL" description="Of another service that speaks the protocol of S3; empty: Amazon's" value={endpoint} onChange={(e) => changed(setEndpoint)(e.currentTarget.value)} {...plain} data-test="import-s3-endpoint" />}
                <TextInput label="Prefix" description="Only objects whose keys begin with it" value={prefix} onChange={(e) => changed(setPrefix)(e.currentTarget.value)} {...plain} />
                <Group grow align="flex-start">
                  <TextInput label="Region" description="Empty: it is found out" value={region} onChange={(e) => changed(setRegion)(e.currentTarget.value)} {...plain} />
                  <Select label="If a file is there already" description="Of an object's name" allowDeselect={false} value={conflict} onChange={(v) => v && changed(setConflict)(v)} data={[{ value: "skip", label: "Skip the object" }, { value: "overwrite", label: "Overwrite the file" }, { value: "if-newer", label: "Overwrite it if the object is newer" }]} />
                </Group>
                <TextInput label="Session token" description="Of temporary keys" value={session} onChange={(e) => changed(setSession)(e.currentTarget.value)} {...plain} classNames={{ input: "secret" }} />
              </Stack>
            </Collapse>
          </div>
          {check !== null && <Totals job={checked.data} error={checked.error} />}
          {error !== "" && <Alert color="red" role="alert" className="wrap" data-test="import-error">{error}</Alert>}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>Cancel</Button>
            <Button variant="light" onClick={(e) => e.currentTarget.form?.reportValidity() !== false && void start(true)} loading={busy === "check" || (check !== null && !over(checked.data) && !checked.isError)} disabled={busy !== ""} data-test="import-check">Count first</Button>
            <Button type="submit" loading={busy === "import"} disabled={busy !== ""} data-test="import-start">Import</Button>
          </Group>
          <Text size="xs" c="dimmed">The keys are kept encrypted by the cluster until the import is over, and nowhere in this browser.</Text>
        </Stack>
      </form>
    </Dialog>
  );
}

function useJob(id: number | null) {
  return useQuery({ queryKey: ["job", id], queryFn: ({ signal }) => call("show-job", "GET", `/jobs/${id}`, undefined, signal), enabled: id !== null, refetchInterval: (q) => (over(q.state.data) ? false : poll) });
}

/** What a dry run has counted. */
function Totals({ job, error }: { job: Job | undefined; error: Error | null }) {
  if (error) return <Alert color="red" role="alert">{error.message}</Alert>;
  if (!job || !over(job)) return <Alert color="blue" role="status">Counting: {plural(job?.items_total ?? 0, "object")} so far.</Alert>;
  if (job.state !== "done") return <Alert color="red" role="alert" className="wrap" data-test="import-totals">{job.error || `It was ${job.state}.`}</Alert>;
  return (
    <Alert color="teal" role="status" data-test="import-totals">
      {plural(job.items_total ?? 0, "object")} of {bytes(job.bytes_total)} would be imported.
      {!!job.import?.skipped && ` ${plural(job.import.skipped, "object is", "objects are")} skipped, because a file is there.`}
      {!!job.import?.refused && ` ${plural(job.import.refused, "key is", "keys are")} no valid paths.`}
    </Alert>
  );
}

/** What became of an import's objects. */
export function ImportReport({ r }: { r: Schemas["Report"] }) {
  return (
    <Stack gap="xs" data-test="import-report">
      <Text size="sm">
        {plural(r.imported, "object")} imported, {bytes(r.imported_bytes)}; {plural(r.verified, "checksum")} compared
        {r.by_size_only ? `, of ${r.by_size_only} only the size` : ""}
        {r.skipped ? `; ${plural(r.skipped, "object")} skipped` : ""}.
      </Text>
      {(r.keys ?? []).length > 0 && (
        <Alert color="yellow" title="Not imported">
          <ul className="names">{(r.keys ?? []).map((k) => <li key={k.key}><Text size="sm" className="wrap">{k.key}: {k.why}</Text></li>)}</ul>
          {!!r.keys_left_out && <Text size="sm">and {plural(r.keys_left_out, "more", "more")}</Text>}
        </Alert>
      )}
    </Stack>
  );
}
