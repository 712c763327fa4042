/* Refreshes the streams every few seconds while the page is visible. */
"use strict";

(() => {
    const INTERVAL = 5000;
    const TIMEOUT = 30000;
    const region = document.getElementById("walex-streams");
    const notice = document.getElementById("walex-notice");
    let ended = false;

    function notify(message) {
        const asOf = document.getElementById("walex-as-of");
        const text = `${message} ${asOf ? asOf.textContent : ""}`;
        // A screen reader would read an unchanged notice aloud again.
        if (notice.hidden || notice.textContent !== text) {
            notice.textContent = text;
            notice.hidden = false;
        }
    }

    function replace(html) {
        const openStates = new Map();
        for (const details of region.querySelectorAll("details[id]")) {
            openStates.set(details.id, details.open);
        }
        const focused = region.contains(document.activeElement)
            ? document.activeElement
            : null;
        // A summary has no id, but its details element has one.
        const holder = focused && focused.closest("[id]");
        const scrolled = [...region.querySelectorAll(".walex-scroll")].map(
            (box) => box.scrollLeft,
        );
        region.innerHTML = html;
        for (const [id, wasOpen] of openStates) {
            const details = document.getElementById(id);
            if (details) {
                details.open = wasOpen;
            }
        }
        region.querySelectorAll(".walex-scroll").forEach((box, index) => {
            box.scrollLeft = scrolled[index] || 0;
        });
        if (holder) {
            const element = document.getElementById(holder.id);
            const target =
                element && element.matches("details")
                    ? element.querySelector("summary")
                    : element;
            if (target) {
                target.focus({ preventScroll: true });
            }
        }
    }

    function isInUse() {
        const selection = document.getSelection();
        return (
            document.hidden ||
            (selection && !selection.isCollapsed && region.contains(selection.anchorNode))
        );
    }

    async function refresh() {
        let response;
        try {
            response = await fetch(window.location.href, {
                headers: { "X-Walex-Refresh": "1" },
                redirect: "manual",
                cache: "no-store",
                signal: AbortSignal.timeout(TIMEOUT),
            });
            if (response.type === "opaqueredirect" || response.status === 403) {
                ended = true;
                notify(notice.dataset.ended);
                return;
            }
            if (!response.ok) {
                throw new Error(String(response.status));
            }
            const html = await response.text();
            if (!isInUse()) {
                replace(html);
            }
            notice.hidden = true;
        } catch {
            notify(notice.dataset.away);
        }
    }

    let timer = null;

    async function loop() {
        timer = null;
        if (!isInUse()) {
            await refresh();
        }
        if (!ended) {
            timer = setTimeout(loop, INTERVAL);
        }
    }

    document.addEventListener("visibilitychange", () => {
        if (!document.hidden && timer !== null) {
            clearTimeout(timer);
            loop();
        }
    });
    timer = setTimeout(loop, INTERVAL);
})();
