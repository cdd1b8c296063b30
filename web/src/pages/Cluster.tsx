export default function Cluster() { return null; }
