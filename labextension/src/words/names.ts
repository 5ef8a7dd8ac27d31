/** Names of sessions. A notebook's session is called by the notebook's path on the machine of the Jupyter server. */

/** What a person calls it: the last part of a path. */
export function sessionTitle(name: string): string {
  const parts = name.split('/').filter(part => part !== '');
  return parts[parts.length - 1] ?? name;
}

/** Paths below the Jupyter server's folder that a session's name may mean, likeliest (shortest) first. */
export function possiblePaths(name: string): string[] {
  if (!name.endsWith('.ipynb')) {
    return [];
  }
  const parts = name.split('/').filter(part => part !== '');
  return parts.map((_, index) => parts.slice(parts.length - 1 - index).join('/'));
}
