/** What is said of the notebook in front where it has no session: one sentence. */

import type { IGpuaas } from '../tokens';

export function otherwise({ current, store, words }: IGpuaas): string {
  const { trans } = words;
  if (current === null) {
    return trans.__('Open a notebook to see where it runs.');
  }
  const { kernel } = current;
  if (kernel === null) {
    return trans.__('This notebook has no kernel.');
  }
  if (!kernel.remote) {
    return trans.__(
      'This notebook runs on a local kernel. Choose the kernel "Python 3 (remote GPU)" for a session that outlives this page.'
    );
  }
  if (store.state.gone.has(current.sessionId)) {
    return trans.__('The session of this notebook has ended. Restart the kernel for a new one.');
  }
  return kernel.problem || trans.__('Looking for a session…');
}
