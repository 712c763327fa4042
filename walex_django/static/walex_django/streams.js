/* Shows the streams anew every few seconds, while somebody may look at them. */
"use strict";

(() => {
    const EVERY = 5000;
    const PATIENCE = 30000;
    const region = document.getElementById("walex-streams");
    const notice = document.getElementById("walex-notice");
    let ended = false;

    function say(words) {
        const asOf = document.getElementById("walex-as-of");
        const text = `${words} ${asOf ? asOf.textContent : ""}`;
        // What has been read aloud is not to be read aloud again.
        if (notice.hidden || notice.textContent !== text) {
            notice.textContent = text;
            notice.hidden = false;
        }
    }

    function show(html) {
        const open = new Map();
        for (const details of region.querySelectorAll("details[id]")) {
            open.set(details.id, details.open);
        }
        const focused = region.contains(document.activeElement)
            ? document.activeElement
            : null;
        // A summary has no id of its own.
        const holder = focused && focused.closest("[id]");
        const scrolled = [...region.querySelectorAll(".walex-scroll")].map(
            (box) => box.scrollLeft,
        );
        region.innerHTML = html;
        for (const [id, wasOpen] of open) {
            const details = document.getElementById(id);
            if (details) {
                details.open = wasOpen;
            }
        }
        region.querySelectorAll(".walex-scroll").forEach((box, index) => {
            box.scrollLeft = scrolled[index] || 0;
        });
        if (holder) {
            const now = document.getElementById(holder.id);
            const target = now && now.matches("details") ? now.querySelector("summary") : now;
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
                signal: AbortSignal.timeout(PATIENCE),
            });
            if (response.type === "opaqueredirect" || response.status === 403) {
                ended = true;
                say(notice.dataset.ended);
                return;
            }
            if (!response.ok) {
                throw new Error(String(response.status));
            }
            const html = await response.text();
            if (!isInUse()) {
                show(html);
            }
            notice.hidden = true;
        } catch {
            say(notice.dataset.away);
        }
    }

    let timer = null;

    async function loop() {
        timer = null;
        if (!isInUse()) {
            await refresh();
        }
        if (!ended) {
            timer = setTimeout(loop, EVERY);
        }
    }

    document.addEventListener("visibilitychange", () => {
        if (!document.hidden && timer !== null) {
            clearTimeout(timer);
            loop();
        }
    });
    timer = setTimeout(loop, EVERY);
})();
