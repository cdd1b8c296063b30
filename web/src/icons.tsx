import type { ReactNode, SVGProps } from "react";

export type Icon = (p: { size?: number }) => ReactNode;

// Pictures beside text, which screen readers pass over.
function icon(children: ReactNode, extra: SVGProps<SVGSVGElement> = {}): Icon {
  return ({ size = 18 }) => (
    <svg width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth={1.7} strokeLinecap="round" strokeLinejoin="round" aria-hidden="true" focusable="false" {...extra}>
      {children}
    </svg>
  );
}

export const FolderIcon = icon(<path d="M3 6.5A1.5 1.5 0 0 1 4.500 5h4.200l2.300 2.500h8.500A1.500 1.500 0 0 1 21 9v8.500a1.500 1.500 0 0 1-1.500 1.500h-15A1.500 1.500 0 0 1 3 17.500z" fill="currentColor" fillOpacity={0.18} />);
export const FileIcon = icon(<><path d="M13.500 3H7a1.500 1.500 0 0 0-1.500 1.500v15A1.500 1.500 0 0 0 7 21h10a1.500 1.500 0 0 0 1.500-1.500V8z" /><path d="M13.500 3v5h5" /></>);
export const LinkIcon = icon(<><path d="M10 14a4 4 0 0 0 5.700 0l3-3a4 4 0 0 0-5.700-5.700l-1 1" /><path d="M14 10a4 4 0 0 0-5.700 0l-3 3a4 4 0 0 0 5.700 5.700l1-1" /></>);
export const UploadIcon = icon(<><path d="M12 15V4M7.500 8.500 12 4l4.500 4.500" /><path d="M4 15v3.500A1.500 1.500 0 0 0 5.500 20h13a1.500 1.500 0 0 0 1.500-1.500V15" /></>);
export const DownloadIcon = icon(<><path d="M12 4v11M7.500 10.500 12 15l4.500-4.500" /><path d="M4 15v3.500A1.500 1.500 0 0 0 5.500 20h13a1.500 1.500 0 0 0 1.500-1.500V15" /></>);
export const CloudIcon = icon(<path d="M7 18.500a4.500 4.500 0 0 1-.6-8.960A6 6 0 0 1 18 10.500a4 4 0 0 1-.5 8z" />);
export const PlusIcon = icon(<path d="M12 5v14M5 12h14" />);
export const PencilIcon = icon(<path d="M4 20l1-4.500L16.500 4a2 2 0 0 1 3 0l.5.5a2 2 0 0 1 0 3L8.500 19z" />);
export const TrashIcon = icon(<><path d="M4 7h16M9 7V4.500h6V7M6 7l1 13h10l1-13" /><path d="M10 11v5.500M14 11v5.500" /></>);
export const EyeIcon = icon(<><path d="M2.500 12S6 5.500 12 5.500 21.500 12 21.500 12 18 18.500 12 18.500 2.500 12 2.500 12z" /><circle cx="12" cy="12" r="2.800" /></>);
export const RefreshIcon = icon(<><path d="M20 11a8 8 0 0 0-14.500-4L4 9M4 4v5h5" /><path d="M4 13a8 8 0 0 0 14.500 4L20 15M20 20v-5h-5" /></>);
export const SunIcon = icon(<><circle cx="12" cy="12" r="4" /><path d="M12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M18.700 5.300l-1.400 1.400M6.700 17.300l-1.400 1.400" /></>);
export const MoonIcon = icon(<path d="M20 14.500A8.500 8.500 0 0 1 9.500 4 8.500 8.500 0 1 0 20 14.500z" />);
export const CopyIcon = icon(<><rect x="8.500" y="8.500" width="11.500" height="11.500" rx="2" /><path d="M15.500 8.500V6A2 2 0 0 0 13.500 4H6a2 2 0 0 0-2 2v7.500a2 2 0 0 0 2 2h2.500" /></>);
export const CheckIcon = icon(<path d="M4.500 12.500l5 5 10-11" />);
export const CloseIcon = icon(<path d="M6 6l12 12M18 6L6 18" />);
export const PauseIcon = icon(<path d="M8 5v14M16 5v14" />);
export const PlayIcon = icon(<path d="M7 4.500l12 7.500-12 7.500z" />);
export const KeyIcon = icon(<><circle cx="8" cy="15.500" r="4.500" /><path d="M11.300 12.200L20 3.500M16 7.500l3 3" /></>);
export const DiskIcon = icon(<><ellipse cx="12" cy="6" rx="8" ry="3" /><path d="M4 6v12c0 1.660 3.600 3 8 3s8-1.340 8-3V6M4 12c0 1.660 3.600 3 8 3s8-1.340 8-3" /></>);
export const NodesIcon = icon(<><rect x="3.500" y="4" width="17" height="6.500" rx="1.500" /><rect x="3.500" y="13.500" width="17" height="6.500" rx="1.500" /><path d="M7 7.250h.01M7 16.750h.01" strokeWidth={2.600} /></>);
export const JobsIcon = icon(<><path d="M9 6h11M9 12h11M9 18h11" /><path d="M4 6l.8.8L6.500 5M4 12l.8.8L6.500 11M4 18l.8.8L6.500 17" /></>);
export const PlugIcon = icon(<><path d="M9 3v5M15 3v5M6.500 8h11v3.500a5.500 5.500 0 0 1-11 0zM12 17v4" /></>);
export const LogoutIcon = icon(<><path d="M14 4.500H6.500A1.500 1.500 0 0 0 5 6v12a1.500 1.500 0 0 0 1.500 1.500H14" /><path d="M10 12h10.500M17 8.500l3.500 3.500-3.500 3.500" /></>);
export const ChevronIcon = icon(<path d="M6 9l6 6 6-6" />);
export const DotsIcon = icon(<path d="M5 12h.01M12 12h.01M19 12h.01" strokeWidth={3} />);
