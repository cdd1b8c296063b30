export default function Mount() { return null; }
