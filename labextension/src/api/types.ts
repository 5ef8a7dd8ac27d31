/** What the service answers with, as JSON. The Python side of it is `jupyter_gpuaas.model`. */

export type SessionState =
  | 'queued'
  | 'starting'
  | 'idle'
  | 'busy'
  | 'suspended'
  | 'migrating'
  | 'parked'
  | 'lost'
  | 'restoring'
  | 'closing'
  | 'closed'
  | 'failed';

export type Phase =
  | 'reserve'
  | 'pre_copy'
  | 'quiesce'
  | 'stop_copy'
  | 'restore'
  | 'verify'
  | 'cutover'
  | 'done'
  | 'failed'
  | 'cancelled';

/** Names -> reasons. */
export type Reasons = { readonly [name: string]: string };

export interface IResourceRequest {
  readonly devices: number;
  /** `cuda`, `cpu`, or null for whatever there is. */
  readonly kind: string | null;
  readonly memory_bytes: number;
  readonly node: string | null;
  /** Standbys on other nodes: 0 or 1. */
  readonly standby: number;
  /** Part of the one device; 1 is all of it, or of each of several. */
  readonly share: number;
}

export interface ILease {
  readonly id: string;
  readonly session_id: string;
  readonly node_id: string;
  readonly device_ids: readonly string[];
  readonly epoch: number;
  /** How much of each device is held; others may hold the rest. */
  readonly share: number;
}

export interface ISession {
  readonly id: string;
  readonly name: string;
  readonly owner: string;
  readonly state: SessionState;
  readonly epoch: number;
  readonly request: IResourceRequest;
  readonly created_s: number;
  readonly cause: string;
  readonly lease: ILease | null;
  /** 1 is next; 0 when not queued. */
  readonly queue_place: number;
  readonly clients: number;
  /** 0 while a client is attached. */
  readonly unattended_since_s: number;
  readonly last_event: number;
  /** Since when it is in this state; 0 where nobody has noted it. */
  readonly since_s: number;
  /** How long it has held devices, times their number, up to the last change of them. */
  readonly device_s: number;
  /** Since when it holds those of its lease; 0 where they do not count. */
  readonly devices_since_s: number;
  /** When it is parked because it is idle, and ended because nobody is attached; 0 where it is not. */
  readonly parks_s: number;
  readonly ends_s: number;
  /** When it is likely to get the devices that it waits for; 0 where nobody can tell. */
  readonly starts_s: number;
}

export interface ICheckpoint {
  readonly id: string;
  readonly session: string;
  readonly cell: number;
  /** The user's name for it; empty for automatic ones. */
  readonly label: string;
  readonly created_s: number;
  readonly names: number;
  readonly host_bytes: number;
  readonly device_bytes: number;
  readonly written_bytes: number;
  readonly stall_s: number;
  readonly capture_s: number;
  readonly lost: Reasons;
  readonly rebuilt: Reasons;
}

export interface ICheckpointStatus {
  readonly every: number;
  readonly taken: number;
  readonly failed: number;
  readonly waiting: number;
  readonly last: ICheckpoint | null;
  readonly problem: string;
  readonly remark: string;
  readonly progress: string;
}

export interface IMigration {
  readonly id: string;
  readonly session_id: string;
  readonly source: string;
  readonly target: string;
  readonly phase: Phase;
  readonly via: string;
  readonly cause: string;
  readonly started_s: number;
  readonly bytes_sent: number;
  readonly downtime_s: number;
  readonly total_s: number;
  readonly lost: Reasons;
}

export interface IPlan {
  readonly source: string;
  readonly target: string;
  readonly moves: number;
  readonly rebuilt: Reasons;
  readonly lost: Reasons;
  readonly bytes_estimate: number;
  readonly total_s_estimate: number;
  readonly downtime_s_estimate: number;
  readonly remarks: readonly string[];
}

export interface ISessionView {
  readonly session: ISession;
  readonly checkpoints: ICheckpointStatus | null;
  readonly migration: IMigration | null;
}

export interface IDevice {
  /** Unique in its node: `cuda:0`. */
  readonly id: string;
  readonly kind: string;
  readonly label: string;
  readonly memory_bytes: number;
}

export interface IDeviceSample {
  readonly device_id: string;
  readonly used_bytes: number;
  /** 0 to 1; -1 where it cannot be read. */
  readonly utilisation: number;
}

/** A node that is being emptied. */
export interface IDrain {
  readonly deadline_s: number;
  /** Ids of the sessions that are still there; only admins are told. */
  readonly left: readonly string[];
  /** Of these, why they could not be moved. */
  readonly refused: Reasons;
  readonly done: boolean;
  readonly cause: string;
}

export interface INode {
  readonly id: string;
  readonly state: 'up' | 'cordoned' | 'lost';
  readonly devices: readonly IDevice[];
  readonly samples: readonly IDeviceSample[];
  /** How much of each device sessions hold; 1 is all of it. What is not here, nobody holds. */
  readonly used: { readonly [device: string]: number };
  /** How far it is with being emptied; null where it is not. */
  readonly drain: IDrain | null;
  /** Why sessions cannot come or go in the middle of a cell; empty where they can. */
  readonly no_images: string;
}

export interface IEvent {
  readonly seq: number;
  readonly time_s: number;
  readonly kind: string;
  readonly session_id: string;
  readonly source: string;
  readonly target: string;
  readonly cause: string;
  readonly epoch: number;
  readonly detail: { readonly [key: string]: unknown };
}

/** What the Jupyter server knows of the service. */
export interface IService {
  readonly state: 'ready' | 'starting' | 'unreachable' | 'off';
  readonly url: string;
  /** Whether it is the user's own on this machine. */
  readonly embedded: boolean;
  readonly user: string;
  readonly role: string;
  readonly version: string;
  readonly problem: string;
  readonly hint: string;
  readonly nodes: number;
  readonly may_start: boolean;
}

/** Which session a Jupyter kernel stands for. */
export interface IKernel {
  readonly kernel_id: string;
  readonly remote: boolean;
  readonly session: { readonly id: string; readonly name: string; readonly epoch: number } | null;
  readonly problem: string;
}

/** What a notebook's next kernel asks for. */
export interface IChoice {
  readonly request: IResourceRequest | null;
  readonly session: string | null;
}

export interface IChosen {
  readonly path: string;
  /** What the session of a new kernel for this path is called. */
  readonly name: string;
  readonly choice: IChoice | null;
}

/** The newest execution of one cell, as the journal has it. */
export interface IMissedCell {
  readonly cell_id: string;
  readonly msg_id: string;
  readonly number: number;
  readonly last: number;
  readonly code: string;
  readonly execution_count: number | null;
  readonly started_s: number | null;
  readonly ended_s: number | null;
  readonly status: 'waiting' | 'running' | 'ok' | 'error' | 'aborted';
  /** In the notebook format. */
  readonly outputs: ReadonlyArray<{ readonly [key: string]: unknown }>;
  readonly display_ids: { readonly [id: string]: readonly number[] };
  readonly dropped_bytes: number;
  /** Messages that are in `outputs` already; only while it runs. */
  readonly recent_ids?: readonly string[];
}

export interface IMissed {
  readonly journal: string;
  readonly first: number;
  readonly last: number;
  /** False: something may be missing. */
  readonly whole: boolean;
  /** After the loss of a host: the cell that the variables are as after; null where nothing was lost. */
  readonly restored_cell: number | null;
  /** The last record before the session went on. */
  readonly restored_number: number;
  readonly cells: readonly IMissedCell[];
}

export interface ICheckpointDiff {
  readonly added: readonly string[];
  readonly removed: readonly string[];
  readonly changed: readonly string[];
}

export interface IRestoreReport {
  readonly checkpoint: ICheckpoint;
  readonly names: number;
  readonly lost: Reasons;
  readonly rebuilt: Reasons;
  readonly replayed: Reasons;
  readonly took_s: number;
  /** The new session, where it was restored into one. */
  readonly session: string;
}
