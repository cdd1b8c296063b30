// What to type to mount a file system, as the command `rackfs mount` chooses it (internal/mount).

export interface Wish {
  name: string;
  address: string; // host:port of the server
  path: string; // that is mounted, of the server
  target: string; // the directory on the client
  readOnly: boolean;
  node?: string; // of kind local: the only node whose workloads reach it
  size: number; // bytes
}

/** Host and port; a server that listens everywhere is reached by the name in the address bar. */
export function hostPort(address: string): [string, string] {
  const i = address.lastIndexOf(":");
  const host = address.slice(0, i).replace(/^\[|\]$/g, "");
  const port = address.slice(i + 1);
  return [host === "0.0.0.0" || host === "::" || host === "" ? window.location.hostname.replace(/^\[|\]$/g, "") : host, port];
}

const bracketed = (host: string) => (host.includes(":") ? `[${host}]` : host);

export function options(w: Wish): string[] {
  const [, port] = hostPort(w.address);
  return ["vers=4.2", "proto=tcp", `port=${port}`, "hard", "timeo=600", "retrans=2", "rsize=1048576", "wsize=1048576", ...(w.node === undefined ? ["nconnect=4"] : []), ...(w.readOnly ? ["ro"] : [])];
}

const source = (w: Wish) => bracketed(hostPort(w.address)[0]) + ":" + w.path;

/** A word for a shell. */
const word = (s: string) => (/^[-\w./:=,@%+[\]]+$/.test(s) ? s : "'" + s.replace(/'/g, "'\\''") + "'");

export const command = (w: Wish) => `mkdir -p ${word(w.target)}\nmount -t nfs -o ${options(w).join(",")} ${word(source(w))} ${word(w.target)}`;

// As fstab(5) escapes.
const field = (s: string) => s.replace(/[ \t\\#]/g, (c) => "\\" + c.charCodeAt(0).toString(8).padStart(3, "0"));

export const fstab = (w: Wish) => `${field(source(w))} ${field(w.target)} nfs ${[...options(w), "_netdev", "nofail"].join(",")} 0 0`;

// JSON texts are YAML.
const yaml = (s: string) => JSON.stringify(s);

/** A name as Kubernetes wants them. */
const label = (s: string) => s.toLowerCase().replace(/[^a-z0-9-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 50) || "volume";

/** A volume for csi-driver-nfs, and a claim of it. */
export function kubernetes(w: Wish): string {
  const [host] = hostPort(w.address);
  const name = "rackfs-" + label(w.path.replace(/^\//, "") + (w.node ? "-" + w.node : ""));
  const gib = Math.max(1, Math.ceil(w.size / 2 ** 30));
  const mode = w.readOnly ? "ReadOnlyMany" : "ReadWriteMany";
  const affinity = w.node === undefined ? "" : `
  nodeAffinity: # its files are on this node's own disk
    required:
      nodeSelectorTerms:
        - matchExpressions:
            - key: kubernetes.io/hostname
              operator: In
              values: [${yaml(w.node)}]`;
  return `apiVersion: v1
kind: PersistentVolume
metadata:
  name: ${name}
spec:
  capacity:
    storage: ${gib}Gi # Kubernetes wants one; quotas of rackfs are what counts
  accessModes: [${mode}]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  mountOptions: [${options(w).map(yaml).join(", ")}]
  csi:
    driver: nfs.csi.k8s.io
    volumeHandle: ${yaml(name)}
    volumeAttributes:
      server: ${yaml(host)}
      share: ${yaml(w.path)}${affinity}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: ${name}
spec:
  accessModes: [${mode}]
  storageClassName: ""
  volumeName: ${name}
  resources:
    requests:
      storage: ${gib}Gi
# In a pod: volumes: [{name: data, persistentVolumeClaim: {claimName: ${name}}}]
# and of its container: volumeMounts: [{name: data, mountPath: ${yaml(w.target)}}]
`;
}
