import { ActionIcon, AppShell, Badge, Burger, Center, Group, Image, Loader, Menu, NavLink, Select, Text, Tooltip, UnstyledButton, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure, useLocalStorage } from "@mantine/hooks";
import { useQueryClient } from "@tanstack/react-query";
import { Component, lazy, Suspense, useEffect, useRef, type ReactNode } from "react";
import { Link, Redirect, Route, Switch, useLocation } from "wouter";
import { call } from "./api/client";
import { ChevronIcon, DiskIcon, JobsIcon, KeyIcon, LogoutIcon, MoonIcon, NodesIcon, PlugIcon, SunIcon, type Icon } from "./icons";
import { failed } from "./notify";
import { Trouble } from "./parts";
import { forgetAll, useSession } from "./session";
import { UploadPanel } from "./files/UploadPanel";
import { useWorkspaces, WorkspaceContext } from "./workspace";

const pages = {
  fs: lazy(() => import("./pages/FileSystems")),
  files: lazy(() => import("./files/Browser")),
  jobs: lazy(() => import("./pages/Jobs")),
  cluster: lazy(() => import("./pages/Cluster")),
  mount: lazy(() => import("./pages/Mount")),
  tokens: lazy(() => import("./pages/Tokens")),
};

/** What goes wrong in a page stays in it. */
class Guard extends Component<{ at: string; children: ReactNode }, { error: unknown; at: string }> {
  state = { error: undefined as unknown, at: this.props.at };
  static getDerivedStateFromError(error: unknown) {
    return { error };
  }
  static getDerivedStateFromProps(props: { at: string }, state: { at: string }) {
    return props.at === state.at ? null : { error: undefined, at: props.at };
  }
  render() {
    if (this.state.error === undefined) return this.props.children;
    return <Trouble what="This page failed" error={this.state.error} retry={() => window.location.reload()} />;
  }
}

export function Shell() {
  const session = useSession();
  const [location] = useLocation();
  const [open, nav] = useDisclosure(false);
  const { workspace, names, choose } = useChosenWorkspace();
  const main = useRef<HTMLElement>(null);
  useEffect(nav.close, [location]); // eslint-disable-line
  const link = (to: string, label: string, Picture: Icon) => (
    <NavLink key={to} component={Link} href={to} label={label} leftSection={<Picture />} active={location === to || location.startsWith(to + "/")} aria-current={location === to ? "page" : undefined} />
  );
  return (
    <WorkspaceContext.Provider value={workspace}>
      <AppShell header={{ height: 52 }} navbar={{ width: 210, breakpoint: "sm", collapsed: { mobile: !open } }} padding="md">
        <a className="skip" href="#main" onClick={(e) => { e.preventDefault(); main.current?.focus(); }}>Skip to the content</a>
        <AppShell.Header>
          <Group h="100%" px="md" justify="space-between" wrap="nowrap">
            <Group gap="sm" wrap="nowrap">
              <Burger opened={open} onClick={nav.toggle} hiddenFrom="sm" size="sm" aria-label="Navigation" />
              <UnstyledButton component={Link} href="/fs" aria-label="rackfs: file systems">
                <Group gap={8} wrap="nowrap">
                  <Image src="/icon.svg" w={26} h={26} alt="" />
                  <Text fw={700} size="lg" visibleFrom="xs">rackfs</Text>
                </Group>
              </UnstyledButton>
              {names.length > 1 && <Select size="xs" w={180} data={names} value={workspace} onChange={(v) => v && choose(v)} aria-label="Workspace" data-test="workspace" allowDeselect={false} searchable={names.length > 8} />}
            </Group>
            <Group gap="xs" wrap="nowrap">
              <SchemeSwitch />
              <WhoMenu />
            </Group>
          </Group>
        </AppShell.Header>
        <AppShell.Navbar p="xs" aria-label="Pages">
          {link("/fs", "File systems", DiskIcon)}
          {link("/jobs", "Jobs", JobsIcon)}
          {link("/mount", "Mount", PlugIcon)}
          {session.everywhere && link("/cluster", "Cluster", NodesIcon)}
          {session.has("admin") && link("/tokens", "Tokens", KeyIcon)}
        </AppShell.Navbar>
        <AppShell.Main ref={main} id="main" tabIndex={-1}>
          <Guard at={location}>
            <Suspense fallback={<Center h={200}><Loader aria-label="Loading" /></Center>}>
              <Switch>
                <Route path="/fs" component={pages.fs} />
                <Route path="/files/:workspace/:fs">{(p) => <pages.files workspace={decodeURIComponent(p.workspace)} fs={decodeURIComponent(p.fs)} />}</Route>
                <Route path="/jobs" component={pages.jobs} />
                <Route path="/mount" component={pages.mount} />
                <Route path="/cluster" component={pages.cluster} />
                <Route path="/tokens" component={pages.tokens} />
                <Route path="/"><Redirect to="/fs" replace /></Route>
                <Route><Trouble what="There is no such page" error="Choose one on the left." /></Route>
              </Switch>
            </Suspense>
          </Guard>
        </AppShell.Main>
      </AppShell>
      <UploadPanel />
    </WorkspaceContext.Provider>
  );
}

/** The workspace that was chosen last in this browser, if it is still there. */
function useChosenWorkspace() {
  const list = useWorkspaces();
  const [chosen, choose] = useLocalStorage({ key: "rackfs-workspace", defaultValue: "default", getInitialValueInEffect: false });
  const names = (list.data ?? []).map((w) => w.name);
  const workspace = names.length === 0 || names.includes(chosen) ? chosen : (names.find((n) => n === "default") ?? names[0] ?? "default");
  return { workspace, names, choose };
}

function SchemeSwitch() {
  const { setColorScheme } = useMantineColorScheme();
  const now = useComputedColorScheme("light", { getInitialValueInEffect: false });
  const next = now === "dark" ? "light" : "dark";
  return (
    <Tooltip label={`Use ${next} colours`}>
      <ActionIcon variant="default" size="lg" onClick={() => setColorScheme(next)} aria-label={`Use ${next} colours`}>
        {now === "dark" ? <SunIcon /> : <MoonIcon />}
      </ActionIcon>
    </Tooltip>
  );
}

function WhoMenu() {
  const session = useSession();
  const queries = useQueryClient();
  const [, go] = useLocation();
  const logOut = async () => {
    try {
      await call("log-out", "DELETE", "/session");
      forgetAll(queries);
      queries.setQueryData(["session"], null);
      go("/fs");
    } catch (e) {
      failed("Not logged out", e);
    }
  };
  return (
    <Menu position="bottom-end" width={260}>
      <Menu.Target>
        <UnstyledButton className="who" aria-label={`Logged in as ${session.id.name}`}>
          <Group gap={6} wrap="nowrap">
            <Text size="sm" className="ellipsis" maw={160}>{session.id.name}</Text>
            <Badge size="sm" variant="light">{session.id.role}</Badge>
            <ChevronIcon size={14} />
          </Group>
        </UnstyledButton>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label className="wrap">{session.everywhere ? "For the whole cluster" : "For " + (session.id.scopes ?? []).join(", ")}</Menu.Label>
        <Menu.Item leftSection={<LogoutIcon />} onClick={() => void logOut()}>Log out</Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
