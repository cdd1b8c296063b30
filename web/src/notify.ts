import { notifications } from "@mantine/notifications";

/** Tells of something that failed. It stays until it is closed: there is something to do. */
export function failed(what: string, err: unknown) {
  notifications.show({ color: "red", title: what, message: err instanceof Error ? err.message : String(err), autoClose: false, withCloseButton: true, role: "alert" });
}

export function done(message: string) {
  notifications.show({ color: "teal", message });
}
