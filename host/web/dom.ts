// Elements as expressions: h("button", { class: "primary", onclick: act }, "Send"). Text is always text: nothing here
// reads markup, so that no byte of a capture can become an element.

export type Child = Node | string | number | null | undefined | false;

type Handlers = {
  [Name in keyof GlobalEventHandlersEventMap as `on${Name}`]?: (event: GlobalEventHandlersEventMap[Name]) => void;
};
export type Attributes = Handlers & {
  [name: string]: string | number | boolean | null | undefined | ((event: never) => void);
};

/** An element; attributes that are false, null or undefined are left out, true is an empty one, on... are handlers. */
export function h<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

/** The same for SVG. */
export function svg(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

function fill(element: Element, attributes: Attributes, children: Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children
      .filter((child) => child !== null && child !== undefined && child !== false)
      .map((child) => (typeof child === "number" ? String(child) : child)),
  );
}

/** Renders anew what stands in `element`; the focus stays on what has the same data-key. */
export function replace(element: Element, ...children: Child[]): void {
  const key =
    document.activeElement instanceof HTMLElement && element.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : undefined;
  element.replaceChildren(
    ...children
      .filter((child) => child !== null && child !== undefined && child !== false)
      .map((child) => (typeof child === "number" ? String(child) : child)),
  );
  if (key !== undefined)
    element.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

export function button(text: Child, act: () => void, attributes: Attributes = {}): HTMLButtonElement {
  return h("button", { type: "button", ...attributes, onclick: act }, text);
}

/** What went wrong, for people. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A line that shows errors and news, and is read out when it changes. */
export class Notice {
  readonly element = h("p", { class: "notice", role: "status", "aria-live": "polite", hidden: true });

  show(text: string, kind: "error" | "info" = "info"): void {
    this.element.hidden = text === "";
    this.element.className = `notice ${kind}`;
    this.element.setAttribute("role", kind === "error" ? "alert" : "status");
    this.element.textContent = kind === "error" ? `Error: ${text}` : text;
  }

  error(error: unknown): void {
    this.show(messageOf(error), "error");
  }

  clear(): void {
    this.show("");
  }
}

/** Lets the page paint and react. */
export function breath(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

/** Hands a text to the user as a file. */
export function download(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
