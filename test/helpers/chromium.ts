// Debian's Chromium by playwright-core, for pages under test: whatever a page complains of in its console is kept.

import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";

export const PATH = "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Why there is no browser here; null when there is one. */
export function whyNoChromium(): string | null {
  return existsSync(PATH) ? null : `it needs ${PATH}`;
}

/** @param executablePath  a script that starts it elsewhere, as in a network namespace */
export function launch(executablePath = PATH): Promise<Browser> {
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}

export type Options = NonNullable<Parameters<Browser["newPage"]>[0]>;

/** A new page, and everything that went wrong in it. */
export async function openPage(
  browser: Browser,
  url: string,
  options: Options = {},
): Promise<{ page: Page; complaints: string[] }> {
  const page = await browser.newPage(options);
  page.setDefaultTimeout(10_000);
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error.stack)));
  page.on("requestfailed", (request) => {
    const error = request.failure()?.errorText;
    // What the page itself gave up is no complaint.
    if (error !== "net::ERR_ABORTED") complaints.push(`${request.url()}: ${error}`);
  });
  await page.goto(url);
  await page.waitForSelector("[role=tablist]");
  return { page, complaints };
}
