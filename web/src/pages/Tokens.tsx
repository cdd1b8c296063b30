import { Alert, Badge, Button, Group, NumberInput, Select, Skeleton, Stack, Table, TagsInput, Text, TextInput } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { call, type AccessToken } from "../api/client";
import { Confirm } from "../files/dialogs";
import { time } from "../format";
import { PlusIcon, TrashIcon } from "../icons";
import { Copyable, Dialog, Head, Trouble } from "../parts";
import { useSession } from "../session";
import { useFileSystems } from "../workspace";

const roles = [
  { value: "viewer", label: "Viewer: lists and downloads" },
  { value: "editor", label: "Editor: uploads, renames, deletes too" },
  { value: "admin", label: "Admin: manages file systems and tokens too" },
];
const day = 86_400;

export default function Tokens() {
  const session = useSession();
  const queries = useQueryClient();
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<AccessToken | null>(null);
  const list = useQuery({ queryKey: ["tokens"], queryFn: async ({ signal }) => (await call("list-tokens", "GET", "/tokens", undefined, signal)).tokens ?? [] });
  const again = () => void queries.invalidateQueries({ queryKey: ["tokens"] });
  return (
    <>
      <Head title="Tokens" text="For people and programs that use the API, the command line or this dashboard.">
        <Button leftSection={<PlusIcon size={16} />} onClick={() => setMaking(true)} data-test="new-token">New token</Button>
      </Head>
      {list.isError && <Trouble what="The tokens cannot be listed" error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && <Skeleton h={120} />}
      {list.isSuccess && (
        <Table.ScrollContainer minWidth={760}>
          <Table verticalSpacing="sm" data-test="tokens">
            <Table.Thead><Table.Tr><Table.Th>Name</Table.Th><Table.Th>Role</Table.Th><Table.Th>For</Table.Th><Table.Th>Acts as</Table.Th><Table.Th>Made</Table.Th><Table.Th>Ends</Table.Th><Table.Th aria-label="Actions" /></Table.Tr></Table.Thead>
            <Table.Tbody>
              {list.data.map((t) => (
                <Table.Tr key={t.id} data-test={"token-" + t.name}>
                  <Table.Td><Text size="sm" fw={600} className="wrap">{t.name}</Text>{t.id === session.id.token && <Text size="xs" c="dimmed">the one you are logged in with</Text>}</Table.Td>
                  <Table.Td><Badge variant="light">{t.role}</Badge></Table.Td>
                  <Table.Td><Text size="sm" className="wrap">{(t.scopes ?? []).length === 0 ? "the whole cluster" : (t.scopes ?? []).join(", ")}</Text></Table.Td>
                  <Table.Td><Text size="sm">{t.uid}:{t.gid}</Text></Table.Td>
                  <Table.Td><Text size="sm">{time(t.created)}</Text>{t.created_by && <Text size="xs" c="dimmed" className="wrap">by {t.created_by}</Text>}</Table.Td>
                  <Table.Td><Text size="sm">{t.expires ? time(t.expires) : "never"}</Text></Table.Td>
                  <Table.Td ta="right"><Button size="compact-sm" variant="light" color="red" leftSection={<TrashIcon size={14} />} onClick={() => setRevoking(t)} aria-label={`Revoke ${t.name}`}>Revoke</Button></Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {making && <NewToken onClose={() => { setMaking(false); again(); }} />}
      {revoking && <Confirm
        title="Revoke token?" text={revoking.id === session.id.token ? "You are logged in with it: you will be logged out." : "It is refused from the next call on. This cannot be undone."} names={[revoking.name]} action="Revoke" onClose={() => setRevoking(null)}
        run={async () => {
          await call("revoke-token", "DELETE", `/tokens/${encodeURIComponent(revoking.id)}`);
          again();
        }}
      />}
    </>
  );
}

function NewToken({ onClose }: { onClose: () => void }) {
  const session = useSession();
  const list = useFileSystems();
  const [name, setName] = useState("");
  const [role, setRole] = useState("viewer");
  const [scopes, setScopes] = useState<string[]>([]);
  const [uid, setUID] = useState<number | string>(session.id.uid);
  const [gid, setGID] = useState<number | string>(session.id.gid);
  const [days, setDays] = useState<number | string>(90);
  const [secret, setSecret] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const places = [...new Set((list.data ?? []).flatMap((f) => [f.workspace, `${f.workspace}/${f.name}`]))];
  const make = async (e: FormEvent) => {
    e.preventDefault();
    setBusy(true);
    setError("");
    try {
      const t = await call("create-token", "POST", "/tokens", { name, role: role as "viewer", scopes, uid: Number(uid) || 0, gid: Number(gid) || 0, expires_seconds: Math.round((Number(days) || 0) * day) });
      setSecret(t.secret);
    } catch (err) {
      setError((err as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog onClose={onClose} title={secret === "" ? "New token" : "The token"} size="lg" closeOnClickOutside={secret === ""}>
      {secret !== "" ? (
        <Stack>
          <Alert color="yellow" title="It is shown this once">Copy it now: the cluster keeps only its hash.</Alert>
          <Copyable text={secret} label="token" test="secret" />
          <Group justify="flex-end"><Button onClick={onClose}>Done</Button></Group>
        </Stack>
      ) : (
        <form onSubmit={(e) => void make(e)}>
          <Stack>
            <TextInput label="Name" description="By which people know it" value={name} onChange={(e) => setName(e.currentTarget.value)} required maxLength={63} data-autofocus autoComplete="off" data-test="token-name" />
            <Select label="Role" data={roles} value={role} onChange={(v) => v && setRole(v)} allowDeselect={false} />
            <TagsInput label="For" description={"WORKSPACE, WORKSPACE/FILESYSTEM or WORKSPACE/FILESYSTEM:/PATH. " + (session.everywhere ? "None: the whole cluster." : "At least one, within your own.")} data={places} value={scopes} onChange={setScopes} acceptValueOnBlur data-test="token-scopes" />
            <Group grow>
              <NumberInput label="User id" description="As whom it acts" value={uid} onChange={setUID} min={0} max={4294967295} allowDecimal={false} />
              <NumberInput label="Group id" description="And of which group" value={gid} onChange={setGID} min={0} max={4294967295} allowDecimal={false} />
              <NumberInput label="Days" description="Until it ends; 0: never" value={days} onChange={setDays} min={0} max={36500} />
            </Group>
            {error !== "" && <Alert color="red" role="alert" className="wrap">{error}</Alert>}
            <Group justify="flex-end">
              <Button variant="default" onClick={onClose}>Cancel</Button>
              <Button type="submit" loading={busy} data-test="make-token">Create</Button>
            </Group>
          </Stack>
        </form>
      )}
    </Dialog>
  );
}
